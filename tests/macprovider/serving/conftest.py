"""Servers that the tests of this folder share. Every test of the surface runs once for each engine in `ENGINES`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from helpers.raw_http import get
from helpers.script_model import save_script_model
from helpers.serve_scripts import CONTEXT, SCRIPTS, SPECIAL
from helpers.served import Refused, Served, served

ENGINES = (
    "transformers",
    pytest.param("openvino", marks=pytest.mark.slow),
    pytest.param("llamacpp", marks=[pytest.mark.slow, pytest.mark.skipif(not shutil.which("llama-server"), reason="needs llama-server")]),
)


@pytest.fixture(scope="session")
def script_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of `SCRIPTS`; its context is long enough for answers that last until somebody ends them."""
    return save_script_model(tmp_path_factory.mktemp("script"), SCRIPTS, context=CONTEXT, special=SPECIAL)


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Name of the engine under test."""
    return str(request.param)


@pytest.fixture(scope="session")
def server(engine: str, script_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two slots, a queue of three, a body limit of 200,000 bytes."""
    log = tmp_path_factory.mktemp("server") / "serve.log"
    limit = {"MACPROVIDER_MAX_REQUEST_BODY_BYTES": "200000"}
    with served(script_model, "--engine", engine, "--max-batch", "2", "--queue", "3", log=log, env=limit) as running:
        yield running


@pytest.fixture
def client(server: Served) -> Any:
    """The real `openai` client, without retries."""
    with server.client() as made:
        yield made


@pytest.fixture(scope="session")
def refused(server: Served) -> Refused:
    """`refused("top_logprobs", call, …)` is False where the engine has the feature; where it has not, the call must be refused by that
    name, and nothing is left to test."""
    features = get(f"{server.url}/v1/engine")[1]["facts"]["features"]

    def check(feature: str, made: Callable[..., Any], *arguments: Any, **fields: Any) -> bool:
        if feature in features:
            return False
        with pytest.raises(openai.BadRequestError, match=feature):
            made(*arguments, **fields)
        return True

    return check
