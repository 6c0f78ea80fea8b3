"""The single writer of a cell: queue, batches, leadership. Imports the domain, the store's ports and the clocks."""
