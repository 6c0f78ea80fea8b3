"""Watching auctions: one feed for all watchers, each from a position on."""
