"""Cells, router and clients on one virtual clock, with a seeded world between them: see CONTRIBUTING.md."""
