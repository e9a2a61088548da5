"""One large file of the hub into the cache: resumed where an earlier attempt stopped, given its name only when its digest is right.

huggingface_hub 2.4 throws a partial file away when a download ends early, so weights of many gigabytes would start anew after each
cut. Here the partial file is `blobs/<sha256>.incomplete` and stays.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from macprovider.weights.cached import ListedFile
from macprovider.weights.classify import TransientFetchError, WeightIntegrityError, classify_error
from macprovider.weights.verify import digest_of

RETRIES = 5
"""Attempts that bring no byte before the fetch gives up."""
RETRY_PAUSE_S = 1.0
_TOTAL = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def fetch_blob(url: str, file: ListedFile, blobs: Path, *, model: str, headers: Mapping[str, str], on_bytes: Callable[[int], None]) -> Path:
    """Fetch `file` from `url` to `blobs/<sha256>`; nothing when it is there. on_bytes: told the bytes received, negative when some
    are dropped.

    Raises WeightIntegrityError when what was delivered is not the file (nothing of it is kept), the network's errors when it cannot
    be had now, OSError of the disk; what has arrived stays for the next attempt.
    """
    target = blobs / file.digest
    if target.exists():
        return target
    blobs.mkdir(parents=True, exist_ok=True)
    partial = blobs / f"{file.digest}.incomplete"
    resumed = partial.exists() and partial.stat().st_size > 0
    _receive(url, file, partial, model=model, headers=headers, on_bytes=on_bytes)
    found = digest_of(partial, file.digest)
    if found != file.digest and resumed:  # the old part may have been the bad one
        on_bytes(-partial.stat().st_size)
        partial.unlink()
        _receive(url, file, partial, model=model, headers=headers, on_bytes=on_bytes)
        found = digest_of(partial, file.digest)
    if found != file.digest:
        partial.unlink()
        raise WeightIntegrityError(
            f"{file.path} of {model} was delivered with SHA-256 {found[:12]}… where its commit says {file.digest[:12]}…; it was not kept."
        )
    os.replace(partial, target)
    return target


def _receive(url: str, file: ListedFile, partial: Path, *, model: str, headers: Mapping[str, str], on_bytes: Callable[[int], None]) -> None:
    """Append to `partial` until it has all bytes, over as many connections as bring something."""
    fruitless = 0
    with partial.open("ab") as out:
        if out.tell() > file.size:
            on_bytes(-out.tell())
            out.truncate(0)
        while (at := out.tell()) < file.size:
            ended: Exception = TransientFetchError(f"The hub ended {file.path} of {model} early; pull again, it goes on where it stopped.")
            try:
                _stream(url, file, out, model=model, headers=headers, on_bytes=on_bytes)
            except Exception as error:
                failure = classify_error(error, model)
                if failure is None or not failure.connection:
                    raise
                ended = error
            out.flush()
            if out.tell() >= file.size:
                break
            fruitless = 0 if out.tell() > at else fruitless + 1
            if fruitless > RETRIES:
                raise ended
            time.sleep(RETRY_PAUSE_S)
        out.flush()
        os.fsync(out.fileno())


def _stream(url: str, file: ListedFile, out: Any, *, model: str, headers: Mapping[str, str], on_bytes: Callable[[int], None]) -> None:
    """One connection: what it brings goes to `out`."""
    from huggingface_hub.utils import get_session, hf_raise_for_status

    at = out.tell()
    asked = {**headers, "Accept-Encoding": "identity", **({"Range": f"bytes={at}-"} if at else {})}
    with get_session().stream("GET", url, headers=asked) as response:
        hf_raise_for_status(response)
        placed = _TOTAL.fullmatch(response.headers.get("Content-Range", ""))
        if at and (response.status_code != 206 or placed is None or int(placed[1]) != at):
            on_bytes(-at)  # the server ignored the range: all of it comes again
            out.truncate(0)
            at = 0
        promised = response.headers.get("Content-Length", "")
        if promised.isdecimal() and at + int(promised) != file.size:
            raise WeightIntegrityError(
                f"{file.path} of {model} has {file.size:,} bytes in its commit, and the hub delivers {at + int(promised):,}; not kept."
            )
        for block in response.iter_bytes():
            out.write(block)
            on_bytes(len(block))
            if out.tell() > file.size:
                raise WeightIntegrityError(f"{file.path} of {model} was delivered with more than its {file.size:,} bytes; it was not kept.")
