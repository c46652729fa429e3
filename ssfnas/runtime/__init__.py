"""The process: devices, ranks, updates, threads, memory, signals, precision, progress, versions."""
