"""The health service that gRPC clients use to choose where to call: for the whole server and for each service.

Each watcher waits on its own. The library's servicer writes to watchers under a lock that status changes need too, so
one watcher that does not read blocks all other watchers and keeps the server from announcing that it leads or ends.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.shell.rpc import Context

Response = health_pb2.HealthCheckResponse


class HealthService(health_pb2_grpc.HealthServicer):
    """Answers only for names that were set."""

    def __init__(self) -> None:
        self._statuses: dict[str, Response.ServingStatus] = {}
        # Set at each change, and replaced by a new event.
        self._changed = asyncio.Event()
        self._ended = False

    def set(self, names: Iterable[str], *, serving: bool) -> None:
        """Changes nothing after `end`."""
        if not self._ended:
            self._statuses |= dict.fromkeys(names, Response.SERVING if serving else Response.NOT_SERVING)
            self._changed.set()
            self._changed = asyncio.Event()

    def end(self) -> None:
        """Reports that nothing serves any more, and ends all watches."""
        self.set(self._statuses, serving=False)
        self._ended = True

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Response:  # noqa: N802 - as in the .proto
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return Response(status=status)

    async def List(self, request: health_pb2.HealthListRequest, context: Context) -> health_pb2.HealthListResponse:  # noqa: ARG002, N802 - as in the .proto
        statuses = {name: Response(status=status) for name, status in self._statuses.items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> AsyncIterator[Response]:  # noqa: ARG002, N802 - as in the .proto
        last = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, Response.SERVICE_UNKNOWN)
            if status != last:
                last = status
                yield Response(status=status)
            elif self._ended:
                return
            else:
                await changed.wait()
