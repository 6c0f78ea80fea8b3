"""A user's money in one cell: buckets, holds, and the rules that move them."""
