"""Run code that nobody vouches for: in a process of its own that can reach nothing and ends in time."""
