"""The process: devices, ranks, updates over them, threads, signals, precision, progress, versions."""
