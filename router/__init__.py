"""Which cell is home to whom: needed to find the way, not to go it."""

import server.shell  # noqa: F401 - says how grpc is to be loaded, before it is
