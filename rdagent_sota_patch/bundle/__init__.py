"""Bundles: what won, as a folder that replays its own back-test and scores a new day."""
