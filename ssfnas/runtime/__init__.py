"""The process: devices, ranks, signals, precision, progress, versions."""
