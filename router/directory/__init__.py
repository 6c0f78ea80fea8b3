"""Where users live and which cells there are: in PostgreSQL, and in a copy on the local disk while that is away."""
