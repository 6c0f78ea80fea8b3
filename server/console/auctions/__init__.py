"""The auctions' pages: the example of a client."""
