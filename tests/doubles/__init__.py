"""Stand-ins for a cell's ports, in memory or under a test's control. The store passes the suite of the real one."""
