"""The process: devices, ranks, updates over them, signals, precision, progress, versions."""
