"""Moving users between cells, one by one or all of a cell; the cells do it, and report the new home."""
