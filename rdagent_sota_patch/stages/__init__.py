"""Factor stage and model stage as one run of real ``rdagent`` processes, which can be stopped and gone on with."""
