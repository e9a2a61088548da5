"""Keeps libraries from writing bars and notices into the trainer's log."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """Turn off progress bars and notices of transformers; warnings and errors stay. Sends nothing anywhere."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
