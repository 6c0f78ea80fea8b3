"""Tests, by how much of the system they run."""

import server.shell  # noqa: F401 - says how grpc is to be loaded, before it is
