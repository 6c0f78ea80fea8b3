"""A cell's answers to an auditor, and the proofs of them."""
