"""What a run leaves on disk: its directory, checkpoints, logs, and the lines to go on with."""
