"""Personal data: sealed, in the person's home cell and nowhere else (docs/privacy.md)."""
