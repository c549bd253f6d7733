"""A TCP proxy that delays: a database as far away as one likes.

    python benchmarks/proxy.py HOST PORT MILLISECONDS

Prints its own port, then serves until it is killed. Half of the round-trip time passes on the way
there, half on the way back; what follows closely behind is not delayed further.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import suppress

_CHUNK = 1 << 16


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Pass on what comes, each piece after the delay, in order."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, data = await pieces.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                with suppress(OSError):
                    writer.close()
                return
            writer.write(data)
            await writer.drain()

    task = asyncio.create_task(deliver())
    data = b"x"
    while data:
        try:
            data = await reader.read(_CHUNK)
        except OSError:
            data = b""
        pieces.put_nowait((loop.time() + delay, data))
    with suppress(OSError):
        await task


async def serve(host: str, port: int, delay: float) -> None:
    """Serve until cancelled."""
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, port)
        await asyncio.gather(carry(reader, back, delay), carry(there, writer, delay),
                             return_exceptions=True)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("milliseconds", type=float, help="round-trip time")
    options = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(options.host, options.port, options.milliseconds / 2000))


if __name__ == "__main__":
    sys.exit(main())
