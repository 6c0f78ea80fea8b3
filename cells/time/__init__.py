"""The clocks of a running cell."""
