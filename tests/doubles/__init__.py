"""Stand-ins for a cell's ports, in memory or under a test's control; each passes the suite that the real one passes."""
