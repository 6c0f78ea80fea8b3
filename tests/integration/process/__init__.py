"""Whole processes: start, end, settings of a deployment, metrics and traces."""
