"""The Merkle tree over the log, its signed checkpoints, proofs and witnesses."""
