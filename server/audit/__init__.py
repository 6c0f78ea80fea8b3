"""The audit of a cell's process: its keys and files, the calls to other cells, its passes and metrics."""
