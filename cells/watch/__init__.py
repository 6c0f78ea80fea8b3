"""Watching auctions: one reader of the log feeds all watchers, each from a position on."""
