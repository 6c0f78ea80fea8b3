"""Cells, router and clients on one virtual clock, with seeded faults between them: see docs/simulation.md."""
