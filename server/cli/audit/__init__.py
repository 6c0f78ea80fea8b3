"""`cellbook audit`: what an auditor asks, and how the answers are checked (docs/audit.md)."""
