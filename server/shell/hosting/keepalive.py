"""How soon a connection that is silently dead is detected."""

# For servers and for our own channels: a ping after 3 s without data, and 3 s for its answer, with or without calls.
# The answer needs no Python, so a busy process still gives it. gRPC also makes the kernel drop the connection if sent
# data stays unacknowledged that long.
KEEPALIVE: list[tuple[str, int]] = [
    ("grpc.keepalive_time_ms", 3_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # For gRPC's other pings, which measure the connection. Only one ping is out at a time: while it waits for the
    # answer to one of these, a minute by default, it sends no keepalive and detects nothing.
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
]
