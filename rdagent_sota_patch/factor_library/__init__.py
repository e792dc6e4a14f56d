"""The library: factors of all runs in one folder, by hash of code and values."""
