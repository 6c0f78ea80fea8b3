"""The wire of Cellbook, as generated from the .proto files beside it."""
