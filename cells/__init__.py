"""A cell: its domain, its event store, its single writer and its sagas. Never imports grpc."""
