"""Options of channels: their connections, the choice of the process that leads, and retries."""

import json
from collections.abc import Sequence

from server.shell.settings.addresses import parse_address

# Each channel has its own connections. By default gRPC lets two channels share one; if both start a health watch at the
# same moment, its core uses the state of one before it exists and the process dies of a SIGSEGV (grpcio 1.85.1 to
# 1.85.3, HealthWatcher::SetSubchannel; tests/faults/test_channels.py).
OWN_CONNECTIONS = ("grpc.use_local_subchannel_pool", 1)

# Reconnect soon after a cut, because sagas wait. `min` is the time limit of one attempt: packets of an attempt that
# is made into a cut are lost, and TCP would send the next one half a minute after the network is back.
RECONNECT: list[tuple[str, int]] = [
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

# For external clients, over all addresses of one cell at once (docs/clients.md). Calls go to a process whose health
# service says SERVING, and wait within their deadline while there is none: a standby takes over within 3 s. A call that
# was cut is sent again under its command_id, so it takes effect once; the retries together outlast a takeover.
SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [
            {
                "name": [{}],
                "waitForReady": True,
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.5s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ],
    },
    indent=2,
)

# For a proxy: it finds the process that leads, and leaves retries to its caller.
PROXY_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}})


def name_option(endpoints: Sequence[str]) -> list[tuple[str, str]]:
    """The processes of one cell all present the first one's host name: gRPC takes one name per channel."""
    return [("grpc.ssl_target_name_override", parse_address(endpoints[0]).host)] if len(endpoints) > 1 else []
