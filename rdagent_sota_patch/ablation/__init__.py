"""Which factors earn their place: models trained with and without each, over seeds and walk-forward windows."""
