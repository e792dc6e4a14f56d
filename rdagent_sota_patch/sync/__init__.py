"""The client: what a run produced, brought from a results API into a folder."""
