"""Hybrid logical clock, vector clock, and bounds on time."""
