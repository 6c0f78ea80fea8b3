"""The console: the books in a browser, for auditors, operators and support. A process of its own, only a gRPC client.

It has no rights: each call carries the proof of the visitor who is signed in, and the cells decide (docs/console.md).
"""
