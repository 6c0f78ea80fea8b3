"""What an auditor asks of a cell, and what proves the answers."""
