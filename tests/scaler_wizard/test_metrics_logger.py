from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from modelwright.errors import UsageError
from scaler_wizard.http_sink import HttpSink
from scaler_wizard.metrics_logger import CATALOGUE, LOG_EVERY, PROFILES, MetricsLogger, TelemetryConfig, open_sinks


class Receiver(ThreadingHTTPServer):
    """A real receiver; answers with `status` and keeps what it got."""

    def __init__(self) -> None:
        self.status = 200
        self.events: list[dict[str, Any]] = []
        self.requests = 0

        class Handler(BaseHTTPRequestHandler):
            server: Receiver

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self.server.requests += 1
                if self.server.status == 200:
                    self.server.events += [json.loads(line) for line in body.splitlines()]
                self.send_response(self.server.status)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}/events"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_reach_the_file_and_the_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLogger(TelemetryConfig(path)) as log:
        log.log("train/loss", 2.5, 1, {"phase": "P1"})
        log.log("train/loss", float("nan"), 2)
        assert len(lines(path)) == 2  # flush_every 1 loses nothing
        assert log.snapshot()["train/loss"]["step"] == 2
    first, second = lines(path)
    assert (first["metric"], first["value"], first["step"], first["phase"]) == ("train/loss", 2.5, 1, "P1")
    assert first["timestamp"].endswith("Z")
    assert (second["value"], second["nonfinite"]) == (None, "nan")


def test_flush_every_buffers_until_full_or_closed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLogger(TelemetryConfig(path, flush_every=3))
    log.log("a", 1.0)
    log.log("a", 2.0)
    assert path.read_text() == ""
    log.log("a", 3.0)
    assert len(lines(path)) == 3
    log.log("a", 4.0)
    log.close()
    assert len(lines(path)) == 4


def test_extras_may_not_take_core_names(tmp_path: Path) -> None:
    with MetricsLogger(TelemetryConfig(tmp_path / "m.jsonl")) as log, pytest.raises(ValueError, match="value"):
        log.log("a", 1.0, extra={"value": 2})


def test_http_delivers_batches_of_valid_json(tmp_path: Path, receiver: Receiver) -> None:
    sink = HttpSink(receiver.address, batch=50)
    with MetricsLogger(TelemetryConfig(tmp_path / "m.jsonl"), sinks=[sink]) as log:
        for step in range(120):
            log.log("train/loss", float("inf") if step == 7 else 1.0, step)
    assert [event["step"] for event in receiver.events] == list(range(120))
    assert receiver.events[7]["nonfinite"] == "inf"
    assert (sink.delivered, sink.dropped) == (120, 0)
    assert receiver.requests < 120


def test_a_refusing_receiver_is_tried_again(receiver: Receiver) -> None:
    receiver.status = 503
    sink = HttpSink(receiver.address, pause_s=0.05, attempts=50)
    sink.emit({"metric": "a"})
    deadline = time.monotonic() + 20
    while receiver.requests < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    receiver.status = 200
    sink.close(wait_s=20)
    assert receiver.events == [{"metric": "a"}]
    assert sink.dropped == 0


def test_a_dead_receiver_never_blocks_and_drops_the_oldest() -> None:
    sink = HttpSink("http://127.0.0.1:9/none", capacity=10, attempts=2, pause_s=30, timeout_s=0.5)
    began = time.monotonic()
    for step in range(1000):
        sink.emit({"step": step})
    assert time.monotonic() - began < 5
    sink.close(wait_s=0.1)
    assert sink.dropped == 1000
    assert sink.delivered == 0


def test_destinations() -> None:
    assert open_sinks("local", None) == []
    with pytest.raises(UsageError, match="WebSocket"):
        open_sinks("websocket", "ws://x")
    with pytest.raises(ValueError, match="http://"):
        HttpSink("ftp://x")


def test_profiles_and_catalogue() -> None:
    assert LOG_EVERY == {"standard": 10, "high_resolution": 1, "detailed": 1, "exploratory": 1}
    assert not PROFILES["standard"].length_curve
    assert PROFILES["high_resolution"].length_curve and not PROFILES["high_resolution"].norms
    assert [name for name, meaning in PROFILES.items() if meaning.generations] == ["exploratory"]
    assert {"train/loss", "eval/perplexity", "eval/accuracy", "eval/bpb", "throughput/tokens_per_s"} <= set(CATALOGUE)
