"""The gRPC skin over a cell."""
