"""A process as a supervisor asks it over HTTP."""

import asyncio
import urllib.error
import urllib.request


async def probed(address: str, path: str) -> tuple[int, str]:
    """As a supervisor asks: the status and what is said."""

    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as reply:
                return reply.status, reply.read().decode().strip()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode().strip()

    return await asyncio.to_thread(ask)
