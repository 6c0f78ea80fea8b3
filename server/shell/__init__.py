"""Hosting that knows no ledger: what any gRPC process of ours needs round its services."""

import os

# Read when grpc is loaded, which is after this. Its handlers for a fork tear at the pollers of a child that is about
# to become another program (PostgreSQL, mostly), and now and then the child dies of it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
