"""Hosting for any gRPC process of this project; it knows nothing of ledgers."""

import os

# grpc reads this when it is imported, which happens later. Its fork handlers touch the pollers of a child process that
# is about to exec another program (usually PostgreSQL), and now and then the child crashes.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
