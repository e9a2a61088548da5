"""One provider's membership in a pool: connect, say hello, stay connected, leave when told to, come back. (spec 3.4, 3.5)

`Membership` is the life across connections; `Conversation` (conversation.py) is one connection. All of it runs on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from macprovider.coordinator.conversation import Conversation, Ended
from macprovider.coordinator.provider import Provider

UNKNOWN_PROVIDER = 4002
"""Close code: the coordinator does not know this provider id."""
_log = logging.getLogger("macprovider.coordinator")


@dataclass(frozen=True)
class Timing:
    """Seconds, and how to wait them. first_backoff doubles up to last_backoff. rejoin: between which two a drained provider comes
    back. hello: for the coordinator's answer. state: how often the state is looked at.
    """

    first_backoff: float = 1.0
    last_backoff: float = 60.0
    rejoin: tuple[float, float] = (10.0, 15.0)
    connect: float = 10.0
    hello: float = 10.0
    state: float = 0.25
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep)


class Membership:
    """The session as the server sees it: see `macprovider.serving.session.Session`.

    url: ws:// or wss://. token: sent as a bearer token, never logged. max_bytes: of one incoming message.
    """

    def __init__(self, url: str, provider: Provider, *, token: str = "", max_bytes: int = 11 << 20, timing: Timing | None = None) -> None:
        self._url, self._provider, self._token, self._max_bytes = url, provider, token, max_bytes
        self._timing = timing or Timing()
        self._task: asyncio.Task[None] | None = None
        self._conversation: Conversation | None = None
        self._leaving = False
        self.refused = ""
        """Why this provider will not connect again; "" while it tries."""

    async def start(self) -> None:
        """Begin to connect and go on in the background."""
        if self._task is None and not self._leaving:
            self._task = asyncio.create_task(self._live(), name="coordinator session")

    async def drain(self) -> None:
        """This process takes no more work: tell the coordinator, and again when what ran has ended."""
        self._leaving = True
        if self._conversation is not None:
            await self._conversation.leave()

    async def close(self) -> None:
        """Say goodbye and close; harmless when called twice, and when there never was a connection."""
        self._leaving = True
        conversation, task, self._task = self._conversation, self._task, None
        if task is None:
            return
        if conversation is not None:
            await conversation.goodbye()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _live(self) -> None:
        """Connection after connection, until the coordinator does not know this provider or the server ends."""
        pauses = self._pauses()
        while not self._leaving:
            ended = await self._converse()
            if ended.code == UNKNOWN_PROVIDER:
                self.refused = (
                    f"The coordinator does not know the provider id {self._provider.provider_id!r} (close code {UNKNOWN_PROVIDER}); this "
                    "server goes on without a pool. Register the id there, or set --provider-id to a registered one, and start again."
                )
                _log.error(self.refused)
                return
            if ended.drained:
                pause = random.uniform(*self._timing.rejoin)
            else:
                pauses = self._pauses() if ended.welcomed else pauses
                pause = next(pauses)
                _log.warning("no coordinator session: %s Next try in %g s.", ended.why, pause)
            await self._timing.sleep(pause)

    def _pauses(self) -> Iterator[float]:
        pause = self._timing.first_backoff
        while True:
            yield pause
            pause = min(2 * pause, self._timing.last_backoff)

    async def _converse(self) -> Ended:
        try:
            async with connect(
                self._url,
                additional_headers={"Authorization": f"Bearer {self._token}"} if self._token else None,
                compression=None,
                max_size=self._max_bytes,
                open_timeout=self._timing.connect,
                close_timeout=1,
                logger=_silent(),
            ) as socket:
                self._conversation = Conversation(socket, self._provider, hello_s=self._timing.hello, look_s=self._timing.state)
                try:
                    return await self._conversation.run()
                finally:
                    self._conversation = None
        except InvalidStatus as error:
            status = error.response.status_code
            hint = " Check the provider token." if status in (401, 403) else ""
            return Ended(why=f"the coordinator refused the connection with HTTP status {status}.{hint}")
        except (InvalidURI, InvalidHandshake) as error:
            return Ended(why=f"what answers there is no coordinator ({type(error).__name__}).")
        except (OSError, TimeoutError, ConnectionClosed) as error:
            return Ended(why=f"{_reason(error)}.")


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "the coordinator did not answer in time"
    if isinstance(error, OSError) and error.strerror:
        return f"the coordinator cannot be reached ({error.strerror})"
    return f"the connection broke ({type(error).__name__})"


def _silent() -> logging.Logger:
    """For the WebSocket library: at debug level it writes every header, and one of ours is the token."""
    logger = logging.getLogger("macprovider.coordinator.wire")
    logger.setLevel(logging.CRITICAL)
    return logger
