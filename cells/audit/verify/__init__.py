"""Checks Cellbook's log without trusting Cellbook: exports, proofs and checkpoints, offline (docs/audit.md).

This folder needs only Python 3.11 and the package `cryptography`. You can copy it elsewhere:

    python -m verify --key KEY export.jsonl
"""
