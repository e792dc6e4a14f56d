"""Read RD-Agent's logs without importing RD-Agent and without running anything a file holds."""
