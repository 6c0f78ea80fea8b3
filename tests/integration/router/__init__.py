"""A router over real sockets and a real PostgreSQL, between fake cells and whoever calls it."""
