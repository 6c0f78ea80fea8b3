"""Nonsense and near misses by the hundred thousand, against a router and three cells of the real kind."""
