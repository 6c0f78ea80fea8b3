"""Which cell is home to whom: needed to find the way, not to go it."""
