"""Settings of any process that hosts a gRPC server, and how they are loaded."""
