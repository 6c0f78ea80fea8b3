"""One thin servicer per file: decode, execute, encode. Refusals propagate; there is no `try`."""
