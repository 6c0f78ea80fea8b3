"""One gRPC server in this process: listeners, health, start and end."""
