"""The process: devices, ranks, updates, threads, signals, precision, progress, versions."""
