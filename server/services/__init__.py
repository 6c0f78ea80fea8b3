"""One thin servicer per file: decode, execute, encode; its own conversions stand below it. Refusals propagate; there is no `try`."""
