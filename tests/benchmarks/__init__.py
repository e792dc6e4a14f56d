"""What the project promises of its speed, each measured against its reference in the same run: ``make bench``."""
