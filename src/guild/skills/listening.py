"""An ASGI application on a socket until a signal ends it, within two seconds."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from collections.abc import Callable, Generator
from typing import Any

import uvicorn

from modelwright.errors import ModelwrightError

CLOSE_S = 1
"""How long answers under way may take once a signal has come."""


class PortError(ModelwrightError):
    """The address cannot be listened on."""


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address; port 0 takes a free one. Raises PortError."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise PortError(f"--host {host}: there is no such address ({error.strerror}).") from error
    held = socket.socket(family, kind)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind(address)
        held.listen()
    except OSError as error:
        held.close()
        if error.errno == errno.EADDRINUSE:
            raise PortError(f"Port {port} of {host} is in use by another process; stop that one or choose another --port.") from error
        raise PortError(f"Port {port} of {host} cannot be used ({error.strerror}); choose another --host or --port.") from error
    return held


class _Server(uvicorn.Server):
    """Signals are taken below, where they end the server with exit status 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def run_until_signal(app: Any, listener: socket.socket, ready: Callable[[], None]) -> int:
    """Serve; `ready` is called once requests are answered. Returns 0 after SIGTERM or SIGINT."""

    async def main() -> int:
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", server_header=False, timeout_graceful_shutdown=CLOSE_S
        )
        # The application reports its own defects; uvicorn would repeat them, and call a request cut off at the end one.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        server = _Server(config)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, setattr, server, "should_exit", True)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not running.done():
            await asyncio.sleep(0.005)
        if not running.done():
            ready()
        await running
        return 0

    with asyncio.Runner() as runner:
        return runner.run(main())
