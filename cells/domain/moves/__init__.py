"""Users who move from one cell to another."""
