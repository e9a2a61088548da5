"""A hub on this machine: as much of the Hugging Face HTTP interface as a download needs, over real sockets, and told to misbehave.

Routes: `GET /api/models/ID[/revision/R]` and `/api/models/ID/tree/R` (what a commit holds), `HEAD` and `GET /ID/resolve/R/FILE` with
ETag, X-Repo-Commit, X-Linked-ETag, X-Linked-Size and byte ranges. Files named *.safetensors are kept outside Git (their digest is a
SHA-256), the others have Git's blob hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_API = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)(?:/(?P<what>revision|tree)/(?P<revision>[^/]+))?")
_FILE = re.compile(r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass
class HubRepository:
    """A model on the hub. listed: sizes that the hub tells instead of the true ones."""

    files: dict[str, bytes]
    commit: str = "c0ffee" + "0" * 34
    listed: dict[str, int] = field(default_factory=dict)

    def digest(self, name: str) -> str:
        data = self.files[name]
        if name.endswith(".safetensors"):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def size(self, name: str) -> int:
        return self.listed.get(name, len(self.files[name]))

    def entry(self, name: str) -> dict[str, Any]:
        large = name.endswith(".safetensors")
        git = hashlib.sha1(name.encode()).hexdigest() if large else self.digest(name)
        values = {"path": name, "size": self.size(name), "oid": git}
        return {**values, **({"lfs": {"oid": self.digest(name), "size": self.size(name), "pointerSize": 134}} if large else {})}


@dataclass
class Misbehaviour:
    """What the hub does instead of its duty. `on` limits it to requests whose path matches.

    status, code, headers: answer this. hang_s: say nothing for so long. cut_after: close the connection after so many bytes of a
    file, `cuts` times. corrupt: change a byte of a file on its way. bytes_per_s: deliver slowly.
    """

    on: str = ""
    status: int = 0
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    hang_s: float = 0.0
    cut_after: int = -1
    cuts: int = 10**9
    corrupt: bool = False
    bytes_per_s: float = 0.0


class Hub:
    """The server and what it saw. requests: (method, path, Range header or ""). served: bytes of each file that were sent."""

    def __init__(self) -> None:
        self.repositories: dict[str, HubRepository] = {}
        self.misbehaviour = Misbehaviour()
        self.requests: list[tuple[str, str, str]] = []
        self.served: dict[str, int] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def add(self, name: str, files: Mapping[str, bytes] | Path) -> HubRepository:
        """Offer a model: its files, or a folder of them."""
        if isinstance(files, Path):
            files = {path.name: path.read_bytes() for path in sorted(files.iterdir()) if path.is_file()}
        self.repositories[name] = HubRepository(dict(files))
        return self.repositories[name]

    def behave(self, **how: Any) -> None:
        """Misbehave in this way from now on; without arguments, well."""
        self.misbehaviour = Misbehaviour(**how)
        self.requests.clear()
        self.served.clear()

    def environment(self, home: Path) -> dict[str, str]:
        """The environment of a child that knows this hub and no other, with its cache below `home`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_", "HUGGINGFACE_"))}
        proxies = {name: value for name, value in kept.items() if name.lower().endswith("_proxy")}
        kept = {name: value for name, value in kept.items() if name not in proxies}
        quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
        return {**kept, **quiet, "HF_ENDPOINT": self.url, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    try:
        yield hub
    finally:
        hub.close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, self.headers.get("Range", "")))
            how = hub.misbehaviour
            applies = re.search(how.on, path) is not None
            if applies and how.hang_s:
                time.sleep(how.hang_s)
            if applies and how.status:
                self._refuse(how.status, how.code, how.headers)
            elif (match := _FILE.fullmatch(path)) is not None:
                self._file(match["id"], match["revision"], match["file"], how if applies else Misbehaviour())
            elif (match := _API.fullmatch(path)) is not None:
                self._about(match["id"], match["revision"], match["what"] == "tree")
            else:
                self._refuse(404, "", {})

        def _repository(self, name: str, revision: str | None) -> HubRepository | None:
            repository = hub.repositories.get(name)
            if repository is None:
                self._refuse(404, "RepoNotFound", {})
            elif revision not in (None, "main", repository.commit):
                self._refuse(404, "RevisionNotFound", {})
                return None
            return repository

        def _about(self, name: str, revision: str | None, tree: bool) -> None:
            repository = self._repository(name, revision)
            if repository is None:
                return
            entries = [repository.entry(file) for file in sorted(repository.files)]
            if tree:
                self._json([{"type": "file", **entry} for entry in entries])
                return
            siblings = [
                {
                    "rfilename": entry["path"],
                    "size": entry["size"],
                    "blobId": entry["oid"],
                    **(
                        {"lfs": {"sha256": entry["lfs"]["oid"], "size": entry["lfs"]["size"], "pointerSize": 134}} if "lfs" in entry else {}
                    ),
                }
                for entry in entries
            ]
            self._json({"id": name, "modelId": name, "sha": repository.commit, "siblings": siblings, "tags": [], "private": False})

        def _file(self, name: str, revision: str, file: str, how: Misbehaviour) -> None:
            repository = self._repository(name, revision)
            if repository is None:
                return
            if file not in repository.files:
                self._refuse(404, "EntryNotFound", {"X-Repo-Commit": repository.commit})
                return
            data = repository.files[file]
            if how.corrupt:
                data = data[:-1] + bytes([data[-1] ^ 1])
            start = int((re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
            if start >= len(data) and start:
                self._refuse(416, "", {"Content-Range": f"bytes */{len(data)}"})
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.send_header("ETag", f'"{repository.digest(file)}"')
            self.send_header("X-Repo-Commit", repository.commit)
            if file.endswith(".safetensors"):
                self.send_header("X-Linked-ETag", f'"{repository.digest(file)}"')
                self.send_header("X-Linked-Size", str(repository.size(file)))
            self.end_headers()
            if self.command == "GET":
                self._body(file, data[start:], how)

        def _body(self, file: str, data: bytes, how: Misbehaviour) -> None:
            step = 1 << 16 if not how.bytes_per_s else max(1, int(how.bytes_per_s / 20))
            sent = 0
            try:
                while sent < len(data):
                    if 0 <= how.cut_after <= sent and how.cuts > 0:
                        how.cuts -= 1
                        self.wfile.flush()
                        self.connection.shutdown(socket.SHUT_RDWR)
                        self.close_connection = True
                        return
                    block = data[sent : sent + step]
                    if how.cut_after >= 0 and how.cuts > 0:
                        block = block[: max(how.cut_after - sent, 0)]
                    self.wfile.write(block)
                    sent += len(block)
                    hub.served[file] = hub.served.get(file, 0) + len(block)
                    if how.bytes_per_s:
                        time.sleep(len(block) / how.bytes_per_s)
            except OSError:
                self.close_connection = True

        def _json(self, document: Any) -> None:
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def _refuse(self, status: int, code: str, headers: Mapping[str, str]) -> None:
            body = json.dumps({"error": "refused by the test"}).encode()
            try:
                self.send_response(status)
                if code:
                    self.send_header("X-Error-Code", code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)
            except OSError:
                self.close_connection = True

    return Handler
