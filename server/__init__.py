"""The gRPC skin over a cell."""

import server.shell  # noqa: F401 - says how grpc is to be loaded, before it is
