"""The session with a pool's coordinator, as the server sees it. (spec 3.5)

The session itself lives in a package above this one; `serve_cli` hands its maker to the server, which calls it once the model
answers, and only when a URL is configured and `--no-join` is absent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from macprovider.serving.service import Service
    from macprovider.settings_model import ServeSettings


class Session(Protocol):
    """One coordinator session, run on the server's event loop."""

    async def start(self) -> None:
        """Begin to connect, and go on in the background; returns at once and never raises for a coordinator that is away."""

    async def drain(self) -> None:
        """Tell the coordinator that this provider takes no more work (`drain_status`)."""

    async def close(self) -> None:
        """Say goodbye (`state_update` with reason `shutdown`) and close; harmless when called twice."""


SessionMaker = Callable[["ServeSettings", "Service"], Session]
"""Makes a session that is not started. The service answers requests in process: see `Service.events`."""


def session_for(settings: ServeSettings, service: Service, make: SessionMaker | None) -> Session | None:
    """The session to run beside the HTTP surface; None without a URL, with `--no-join`, and where no maker was given."""
    if settings.coordinator_url is None or settings.no_join or make is None:
        return None
    return make(settings, service)
