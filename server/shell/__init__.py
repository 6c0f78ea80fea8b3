"""Hosting that knows no ledger: what any gRPC process of ours needs round its services."""
