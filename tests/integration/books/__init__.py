"""Tests of the tables against the log: reconciliation, rebuilding, seals, and questions about the past."""
