"""What runs produced, over HTTP."""
