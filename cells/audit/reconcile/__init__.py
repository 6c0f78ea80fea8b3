"""Compares the tables with a replay of the log and with the other cells, and repairs them."""
