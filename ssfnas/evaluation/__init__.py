"""Measures of a network: predictions, metrics by class, nearest neighbors, probes."""
