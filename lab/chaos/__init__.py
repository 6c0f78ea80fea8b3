"""`cellbook chaos`: breaks real processes and links, and checks the invariants."""
