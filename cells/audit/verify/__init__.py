"""Checks Cellbook's log without trusting Cellbook: exports, proofs and checkpoints, offline (docs/audit.md).

This folder needs Python 3.11 and the package `cryptography`, and nothing else of ours. Take it along:

    python -m verify --key KEY export.jsonl
"""
