"""Features from market data, the scores of a day, and the whole back-test anew."""
