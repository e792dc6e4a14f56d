"""From a run's log to a bundle."""
