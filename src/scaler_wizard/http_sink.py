"""A telemetry sink that posts events over HTTP from a thread of its own.

Training only ever appends to a bounded queue. When the receiver is slow or away, the oldest events are dropped and counted;
a batch that fails is sent again with growing pauses, then given up. Standard library only.
"""

from __future__ import annotations

import json
import logging
import threading
import urllib.error
import urllib.request
from collections import deque
from typing import Any

logger = logging.getLogger(__name__)


class HttpSink:
    """POSTs batches of events as JSON lines (`application/x-ndjson`) to `endpoint`.

    `capacity` events wait at most; `batch` go into one request; a failing request is tried `attempts` times with pauses of
    `pause_s`, doubled each time; `timeout_s` bounds one request. `dropped` counts events that were never delivered.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        capacity: int = 10_000,
        batch: int = 200,
        attempts: int = 4,
        pause_s: float = 0.5,
        timeout_s: float = 5.0,
    ) -> None:
        if not endpoint.startswith(("http://", "https://")):
            raise ValueError(f"endpoint must be an http:// or https:// address, found {endpoint!r}")
        self.endpoint = endpoint
        self.dropped = 0
        self.delivered = 0
        self._capacity, self._batch, self._attempts = capacity, batch, attempts
        self._pause_s, self._timeout_s = pause_s, timeout_s
        self._queue: deque[dict[str, Any]] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="telemetry-http", daemon=True)
        self._thread.start()

    def emit(self, event: dict[str, Any]) -> None:
        """Queue one event; drops the oldest when the queue is full. Never waits for the network."""
        with self._changed:
            if len(self._queue) >= self._capacity:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(event)
            self._changed.notify_all()

    def flush(self, wait_s: float = 0.0) -> None:
        """Wait up to `wait_s` seconds for the queue to run empty (0: only wake the sender)."""
        with self._changed:
            self._changed.notify_all()
            if wait_s > 0:
                self._changed.wait_for(lambda: not self._queue and not self._busy, timeout=wait_s)

    def close(self, wait_s: float = 5.0) -> None:
        """Send what waits for at most `wait_s` seconds, then stop; what is left is counted as dropped."""
        if self._closing.is_set():
            return
        self.flush(wait_s)
        self._closing.set()
        with self._changed:
            self.dropped += len(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        self._thread.join(timeout=self._timeout_s + 1)
        if self.dropped:
            logger.warning("%d telemetry events were not delivered to %s; the local file has all of them", self.dropped, self.endpoint)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._queue or self._closing.is_set())
                if self._closing.is_set():
                    return
                events = [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]
                self._busy = True
            if self._deliver(events):
                self.delivered += len(events)
            else:
                with self._changed:
                    self.dropped += len(events)

    def _deliver(self, events: list[dict[str, Any]]) -> bool:
        """Post one batch; True when the receiver answered with success within the allowed attempts."""
        body = "".join(json.dumps(event, allow_nan=False, default=str) + "\n" for event in events).encode()
        pause = self._pause_s
        for attempt in range(self._attempts):
            request = urllib.request.Request(self.endpoint, body, {"Content-Type": "application/x-ndjson"}, method="POST")
            try:
                with urllib.request.urlopen(request, timeout=self._timeout_s):
                    return True
            except (urllib.error.URLError, OSError, ValueError) as error:
                logger.debug("telemetry batch of %d failed (attempt %d): %s", len(events), attempt + 1, error)
            if attempt + 1 == self._attempts or self._closing.wait(pause):
                return False
            pause *= 2
        return False
