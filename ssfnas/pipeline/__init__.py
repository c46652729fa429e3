"""One job, from a checked config to a finished run directory: search, retraining, evaluation."""
