"""Assets and the auctions that sell them."""
