"""`SOTA_SEAL_FROM`: data without the days from some day on, and whether a run has seen one of them."""
