"""One cell process: its settings, policies, metrics and database."""
