"""Clusters on one machine, a market that plays on them, and faults: for demo, replay, chaos, tests and benchmarks."""
