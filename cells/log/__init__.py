"""Readers that follow the log: the tail in memory, and subscriptions by position."""
