"""The life of `serve`: bind, load, test, serve, drain, end. (spec 3.3, 3.4)"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import socket
import time
from collections.abc import Generator

import uvicorn

from macprovider.capacity import Capacity, capacity_of
from macprovider.codec import Codec
from macprovider.engines.auto import Choice, automatic
from macprovider.engines.base import Engine, EngineFacts, EngineSettings
from macprovider.engines.choice import known_engine, make_engine
from macprovider.serving.app import make_app
from macprovider.serving.logs import configure_logs, say
from macprovider.serving.selftest import self_test, warm_up
from macprovider.serving.service import Service
from macprovider.serving.session import Session, SessionMaker, session_for
from macprovider.settings import Loaded
from macprovider.settings_model import ServeSettings
from modelwright.errors import ModelwrightError
from modelwright.tokens import KeyRing, ensure_keys

SIGINT_DRAIN_S = 5.0
CLOSE_S = 2.0
"""How long connections may take to close once their answers have ended."""
BACKLOG = 2048
KEEP_ALIVE_S = 65
"""Longer than the idle times of the usual clients' connection pools, so that it is they who close."""


class PortError(ModelwrightError):
    """The address cannot be listened on."""


def serve(loaded: Loaded, session_maker: SessionMaker | None = None) -> int:
    """Run one server until it is told to end; returns its exit status.

    Raises ModelwrightError for whatever keeps it from serving, with nothing left running.
    """
    settings = loaded.settings
    logger = configure_logs(settings)
    keys = None if settings.on_loopback else KeyRing(ensure_keys())
    with contextlib.closing(bind(settings.host, settings.port)) as listener:
        engine, facts, codec, capacity, tps = load(settings, logger)
        try:
            return _run(loaded, listener, keys, session_maker, (engine, facts, codec, capacity, tps), logger)
        finally:
            engine.close()


def bind(host: str, port: int) -> socket.socket:
    """A socket that holds the address but does not listen yet: whoever connects before the model is ready is refused.

    Raises PortError, before minutes of loading, when the address is taken or is not this machine's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise PortError(f"--host {host}: there is no such address ({error.strerror}).") from error
    held = socket.socket(family, kind)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind(address)
    except OSError as error:
        held.close()
        raise _port_error(host, port, error) from error
    return held


def _port_error(host: str, port: int, error: OSError) -> PortError:
    import errno

    if error.errno == errno.EADDRINUSE:
        return PortError(f"Port {port} of {host} is in use by another process; stop that one or choose another --port.")
    return PortError(f"Port {port} of {host} cannot be used ({error.strerror}); choose another --host or --port.")


def load(settings: ServeSettings, logger: logging.Logger) -> tuple[Engine, EngineFacts, Codec, Capacity, float]:
    """The engine with its model, tested and warm: (engine, facts, codec, capacity, tokens per second of the self-test).

    Raises ModelwrightError; the engine is closed then.
    """
    from modelwright.hardware import inventory
    from modelwright.loading import materialise, read_config, resolve_model

    begun = time.monotonic()
    asked = known_engine(settings.engine)
    source = resolve_model(settings.model)
    folder = materialise(source)
    capacity = capacity_of(settings.max_context, read_config(source), settings.model, inventory().ram_total)
    engine_settings = EngineSettings(
        model=settings.model,
        folder=folder,
        kv_bits=settings.kv_bits,
        max_context=capacity.max_context,
        max_batch=settings.max_batch,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads,
        repair=settings.repair.expanduser() if settings.repair is not None else None,
        prefix_reuse=settings.prefix_reuse,
    )
    choice = automatic(engine_settings) if asked == "auto" else Choice(asked, "")
    if choice.reason:
        capacity = dataclasses.replace(capacity, notes=(*capacity.notes, choice.reason))
    say(logger, "loading", model=settings.model, engine=choice.engine)
    codec = Codec.load(folder, settings.model)
    engine = make_engine(choice.engine, engine_settings)
    try:
        facts = engine.load()
        for note in (*capacity.notes, *facts.notes):
            say(logger, "note", text=note)
        tested = self_test(engine, codec)
        seconds = round(tested.seconds, 3)
        say(logger, "self-test passed", prompt_tokens=tested.prompt_tokens, completion_tokens=tested.completion_tokens, seconds=seconds)
        if settings.warmup_enabled:
            say(logger, "warmed up", seconds=round(warm_up(engine, facts, codec), 3))
    except BaseException:
        engine.close()
        raise
    say(logger, "loaded", seconds=round(time.monotonic() - begun, 3), context=facts.context, slots=facts.slots, kv_bits=facts.kv_bits)
    return engine, facts, codec, capacity, tested.tps


class _Uvicorn(uvicorn.Server):
    """Signals are ours: uvicorn would close connections whose answers may still finish."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _run(
    loaded: Loaded,
    listener: socket.socket,
    keys: KeyRing | None,
    session_maker: SessionMaker | None,
    parts: tuple[Engine, EngineFacts, Codec, Capacity, float],
    logger: logging.Logger,
) -> int:
    host, port = loaded.settings.host, listener.getsockname()[1]

    async def main() -> int:
        engine, facts, codec, capacity, tps = parts
        service = Service(loaded, engine, facts, codec, capacity, tps)
        app = make_app(service, (host, port), keys)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(CLOSE_S),
            backlog=BACKLOG,
        )
        server = _Uvicorn(config)
        session = session_for(loaded.settings, service, session_maker)
        life = Life(service, server, session, logger)
        life.take_signals()
        running = asyncio.create_task(server.serve(sockets=[listener]))
        ready = asyncio.create_task(_announce(server, service, session, host, port, logger))
        try:
            await running
        except OSError as error:
            raise _port_error(host, port, error) from error
        finally:
            ready.cancel()
            await life.finish()
        say(logger, "ended")
        return 0

    with asyncio.Runner() as runner:
        return runner.run(main())


async def _announce(
    server: uvicorn.Server, service: Service, session: Session | None, host: str, port: int, logger: logging.Logger
) -> None:
    """Say where, once the listener accepts, and only then let the pool know."""
    while not server.started:
        await asyncio.sleep(0.005)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    say(logger, "serving", url=url, port=port, pid=os.getpid(), model=service.model, engine=service.facts.engine)
    if session is not None:
        await session.start()


class Life:
    """How a running server ends: SIGTERM drains for `drain_timeout_s`, SIGINT for five seconds, a second SIGINT ends at once."""

    def __init__(self, service: Service, server: uvicorn.Server, session: Session | None, logger: logging.Logger) -> None:
        self._service, self._server, self._session, self._logger = service, server, session, logger
        self._ending: asyncio.Task[None] | None = None
        self._interrupted = False

    def take_signals(self) -> None:
        """From now on signals come here, on the event loop."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._begin, "SIGTERM", self._service.settings.drain_timeout_s)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)

    def _interrupt(self) -> None:
        if self._interrupted:
            say(self._logger, "ended at once by a second SIGINT", logging.WARNING)
            os._exit(128 + signal.SIGINT)
        self._interrupted = True
        self._begin("SIGINT", min(SIGINT_DRAIN_S, self._service.settings.drain_timeout_s))

    def _begin(self, name: str, seconds: float) -> None:
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end(name, seconds))

    async def _end(self, name: str, seconds: float) -> None:
        running, waiting = self._service.admission.running, self._service.admission.waiting
        say(self._logger, "draining", signal=name, seconds=seconds, running=running, waiting=waiting)
        for listening in getattr(self._server, "servers", []):
            listening.close()
        told = asyncio.create_task(self._session.drain()) if self._session is not None else None
        await self._service.drain(seconds)
        if told is not None:
            await asyncio.wait([told], timeout=CLOSE_S)
        self._server.should_exit = True

    async def finish(self) -> None:
        """Close the session, if there is one."""
        if self._session is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._session.close(), CLOSE_S)
