"""Run untrusted code: in a process of its own that can reach nothing and ends in time."""
