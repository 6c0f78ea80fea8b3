"""Checks the health service of one of our processes, for supervisors that run a command.

`python -m server.health` and `python -m router.health` take the settings of the process that they check. Exit code 0:
the process leads, or stands by while another one leads; 1: it does not, or does not answer.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.shell.hosting.host import PROCESS
from server.shell.identity.tls import Certificates, TlsInvalid, host_of
from server.shell.settings.addresses import Address, parse_address
from server.shell.settings.host import HostSettings

TIMEOUT_S = 4.0


def exit_by_health(settings: HostSettings) -> None:
    """Exits with the code, and writes the result to stderr."""
    address = _from_here(parse_address(settings.listen))
    try:
        opened = _channel(settings, str(address))
    except TlsInvalid as problem:
        sys.exit(str(problem))
    with opened as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=PROCESS), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            sys.exit(f"{address}: {error.code().name}: {error.details()}")
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        sys.exit(f"{address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")


def _from_here(listening: Address) -> Address:
    """The address to connect to; a process that listens on all addresses is reached on loopback."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not listened on
    return Address(everywhere.get(listening.host, listening.host), listening.port)


def _channel(settings: HostSettings, address: str) -> grpc.Channel:
    """Connects with the process's own certificate, which may name a host other than this one."""
    if settings.tls is None:
        return grpc.insecure_channel(address)
    options = [("grpc.ssl_target_name_override", host_of(settings.tls.cert))]
    return grpc.secure_channel(address, Certificates(settings.tls).channel_credentials(), options=options)
