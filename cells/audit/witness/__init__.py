"""Cosigns the checkpoints of other logs, and asks other witnesses to cosign ours."""
