"""Fields of requests: their bounds, spelling and texts."""
