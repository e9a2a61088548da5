"""The server's log: one JSON object, or one line of text, for each thing that happened. Never prompts, answers or keys."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from macprovider.settings_model import ServeSettings
from modelwright.clock import stamp
from modelwright.errors import storage_error

NAME = "macprovider"


def configure_logs(settings: ServeSettings) -> logging.Logger:
    """Send the log of this process to stderr, or to `log_file`. Raises StorageError when that file cannot be opened."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if settings.log_file is not None:
        handler = _file(settings.log_file.expanduser())
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    logger = logging.getLogger(NAME)
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(settings.log_level.upper())
    server = logging.getLogger("uvicorn.error")
    server.handlers[:] = [handler]
    server.propagate = False
    server.setLevel(logging.WARNING)
    return logger


def say(logger: logging.Logger, event: str, level: int = logging.INFO, **fields: Any) -> None:
    """One entry: what happened, and its fields."""
    logger.log(level, event, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """`{"ts", "level", "event", …}`."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {"ts": _time(record), "level": record.levelname.lower(), "event": record.getMessage(), **_fields(record)}
        return orjson.dumps(entry, default=str).decode()


class TextLines(logging.Formatter):
    """`time level event key=value …`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={value}" for key, value in _fields(record).items())
        return f"{_time(record)} {record.levelname.lower()} {record.getMessage()} {fields}".rstrip()


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = dict(getattr(record, "fields", {}))
    if record.exc_info:
        fields["traceback"] = logging.Formatter().formatException(record.exc_info)
    return fields


def _time(record: logging.LogRecord) -> str:
    return stamp(datetime.fromtimestamp(record.created, UTC), millis=True)


def _file(path: Path) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise storage_error(error, path, "write the log") from error
