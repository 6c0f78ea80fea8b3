"""Flows that cross cells: their legs, their progress, and the rules of each leg."""
