"""The directory of users' home cells: needed to find a cell, not to call it."""

import server.shell  # noqa: F401 - says how grpc is to be loaded, before it is
