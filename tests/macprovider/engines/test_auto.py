"""What `--engine auto` stands for: by the model's files, the knobs asked for, and this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.engine_listener import engine_settings
from helpers.raw_http import get
from helpers.served import read_log, served
from macprovider.engines import auto
from macprovider.engines.auto import automatic
from macprovider.engines.gguf_file import exported
from macprovider.engines.predicted import GIB
from modelwright.hardware import inventory
from modelwright.tiny import tiny_model_path

NAME = "modelwright/tiny-0.4m"
needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino_genai") is None, reason="needs openvino-genai")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a model, to be changed."""
    return Path(shutil.copytree(tiny_model_path(NAME), tmp_path / "model"))


@needs_openvino
def test_the_faster_engine_is_taken_where_it_holds_the_model_and_every_knob(folder: Path) -> None:
    for bits in (None, 8, 4):
        choice = automatic(engine_settings(folder, kv_bits=bits))
        assert choice.engine == "openvino" and "faster" in choice.reason
    assert automatic(engine_settings(folder), needs=frozenset({"logprobs", "seed"})).engine == "openvino"


@needs_openvino
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"repair": Path("operator.pt")}, "no repair operator"),
        ({"dtype": "float32"}, "found the dtype 'float32'"),
        ({"device": "cuda"}, "found the device 'cuda'"),
    ],
)
def test_a_knob_that_it_cannot_honour_leads_to_transformers_and_says_so(folder: Path, change: dict[str, Any], words: str) -> None:
    choice = automatic(engine_settings(folder, **change))
    assert choice.engine == "transformers" and words in choice.reason


@needs_openvino
def test_what_requests_will_need_counts_too(folder: Path) -> None:
    choice = automatic(engine_settings(folder), needs=frozenset({"top_logprobs", "json_schema"}))
    assert choice.engine == "transformers" and "it has no json_schema, top_logprobs" in choice.reason


@needs_openvino
def test_a_model_that_it_would_compute_wrongly_leads_to_transformers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    scaled = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": config["max_position_embeddings"]}
    config |= {"rope_scaling": scaled, "rope_parameters": scaled | {"rope_theta": 10000.0}}
    (folder / "config.json").write_text(json.dumps(config))
    choice = automatic(engine_settings(folder))
    assert choice.engine == "transformers" and "scaled rotary positions" in choice.reason
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    assert automatic(engine_settings(folder)).engine == "transformers"


@needs_openvino
def test_a_disk_without_room_for_the_export_leads_to_transformers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "SPARE_DISK", 1 << 60)
    monkeypatch.setenv("HOME", str(folder.parent))
    choice = automatic(engine_settings(folder))
    assert choice.engine == "transformers" and "of disk" in choice.reason
    exported(folder, "m", "f16")
    assert automatic(engine_settings(folder)).engine == "openvino", "an export that is there needs no more room"


@needs_openvino
def test_a_tokenizer_that_the_export_cannot_say_leads_to_transformers(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    choice = automatic(engine_settings(folder))
    assert choice.engine == "transformers" and "found a tokenizer that parts words by" in choice.reason


@needs_openvino
@pytest.mark.parametrize(
    ("file", "content"), [("config.json", b"[]"), ("config.json", b"{broken"), ("tokenizer.json", b"3"), ("model.safetensors", b"")]
)
def test_files_that_cannot_be_read_are_no_reason_to_fall_over(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    assert automatic(engine_settings(folder)).engine == "transformers"


@needs_openvino
@pytest.mark.parametrize(("count", "engine"), [(0, "openvino"), (1, "transformers"), (None, "transformers")])
def test_a_gpu_that_is_here_or_cannot_be_ruled_out_is_not_passed_by(
    folder: Path, monkeypatch: pytest.MonkeyPatch, count: int | None, engine: str
) -> None:
    here = inventory().model_copy(update={"gpu_count": count})
    monkeypatch.setattr("modelwright.hardware.inventory", lambda: here)
    assert automatic(engine_settings(folder, device="auto")).engine == engine
    assert automatic(engine_settings(folder, device="cpu")).engine == "openvino"


@needs_openvino
def test_serve_takes_it_and_says_why(tmp_path: Path) -> None:
    log = tmp_path / "serve.log"
    with served(NAME, "--kv-bits", "8", log=log, env={"HOME": str(tmp_path)}) as server:
        facts = get(f"{server.url}/v1/engine")[1]["facts"]
    assert (facts["engine"], facts["kv_bits"]) == ("openvino", 8)
    assert any("engine openvino" in note for note in facts["notes"])
    assert next(entry for entry in read_log(log) if entry["event"] == "loading")["engine"] == "openvino"


@needs_openvino
def test_a_model_whose_copies_do_not_fit_leads_to_transformers(folder: Path) -> None:
    """A file as large as a third of the memory, all of it a hole, of which openvino would hold five copies."""
    total = inventory().ram_total
    assert total is not None
    elements = int(total * GIB / 3 / 2) & ~63
    header = json.dumps({"model.embed_tokens.weight": {"dtype": "BF16", "shape": [64, elements // 64], "data_offsets": [0, 2 * elements]}})
    weights = folder / "model.safetensors"
    weights.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    os.truncate(weights, 8 + len(header) + 2 * elements)
    choice = automatic(engine_settings(folder))
    assert choice.engine == "transformers" and re.search(r"it would take [\d.]+ GiB of the [\d.]+ here", choice.reason)
