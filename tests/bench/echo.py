"""The yardstick of unary calls: a grpc.aio server that answers bytes with bytes, on uvloop, and does nothing else.

`python -m tests.bench.echo BYTES` prints its address, answers each PlaceBid with so many bytes, ends with its stdin.
"""

import asyncio
import sys
from typing import Any

import grpc.aio
import uvloop

from server.__main__ import collect_garbage_seldom


async def serve(answer: bytes) -> None:
    async def place_bid(_request: bytes, _context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        return answer

    server = grpc.aio.server()
    handlers: dict[str, Any] = {"PlaceBid": grpc.unary_unary_rpc_method_handler(place_bid)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("cellbook.v1.AuctionService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    # Until whoever started it closes the pipe, or is gone.
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    # As a cell does.
    collect_garbage_seldom()
    uvloop.run(serve(bytes(int(sys.argv[1]))))
