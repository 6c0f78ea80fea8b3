"""The auditor's pages: search, trace, balances, statements, proofs, findings."""
