"""The whole job, offline, on a synthetic market; its pieces are the tests' fixtures."""
