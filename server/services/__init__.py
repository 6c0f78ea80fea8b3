"""One thin servicer a file: decode, execute, encode. Refusals fly through; there is no `try`."""
