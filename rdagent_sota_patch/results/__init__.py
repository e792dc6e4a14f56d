"""What runs produced, as it is served and synced; it knows nothing of HTTP."""
