"""What Qlib left of a training, in MLflow's recorder: read without running any of it."""
