"""`cellbook chaos`: real processes, real links, and what must hold when they break."""
