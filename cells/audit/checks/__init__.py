"""Checks rows, copies, stored answers and the schema against hashes, the tree and the signed root."""
