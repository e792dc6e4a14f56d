"""SOTA factors of one RD-Agent run inside the next.

Nothing is imported here: the start-up hook loads this package at every Python start.
"""

__version__ = "0.1.0"
