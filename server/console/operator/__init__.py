"""The operator's pages: cells, links, sagas, moves, reconciliation."""
