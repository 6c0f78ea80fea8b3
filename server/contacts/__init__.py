"""What is known of people: sealed, in their home cell, and nowhere else (docs/privacy.md)."""
