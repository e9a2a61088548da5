from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import scaler_wizard
from helpers.small_job import BASE_CONTEXT, small_job, write_model
from modelwright.errors import LoadError
from modelwright.files import read_json
from modelwright.rundir import RunDir
from scaler_wizard.bootstrap import Arithmetic, Runtime
from scaler_wizard.contract import find
from scaler_wizard.export import ExportMismatch, export, logits_of, patched_config, replace_folder
from scaler_wizard.loading import base_reference
from scaler_wizard.preparation import Prepared, prepare
from scaler_wizard.resolve import resolve_document
from scaler_wizard.resolved import ResolvedJob
from scaler_wizard.runner import open_run
from scaler_wizard.session import Session

TEXT = "amber birch cedar dune " * 60
IDS = list(range(30, 200))


def cpu_runtime(job: ResolvedJob) -> Runtime:
    from modelwright.hardware import inventory
    from modelwright.memory import forecast
    from scaler_wizard.bootstrap import hungriest_request, profile_of

    hardware = inventory()
    profile = profile_of(hardware)
    arithmetic = Arithmetic("cpu", "float32", False, "highest", 1)
    return Runtime(hardware, profile, arithmetic, forecast(hungriest_request(job, profile, 1 << 29)))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Session, Prepared]]:
    """A session on an open run, and a model whose adapters were trained a little and whose context is stretched four times."""
    job = resolve_document(small_job(tmp_path))
    with open_run(job, None, {}) as run:
        session = Session(job, run, find(job.paths.contract, job.contract), quiet=True)
        prepared = prepare(job, cpu_runtime(job))
        optimizer = torch.optim.AdamW([p for p in prepared.model.parameters() if p.requires_grad], lr=0.01)
        ids = torch.tensor([IDS])
        for _ in range(3):
            prepared.model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        prepared.method.apply(prepared.model, prepared.method.parameters(prepared.base_config, 4 * BASE_CONTEXT))
        yield session, prepared
        session.close()
        run.finish("completed", 0)


def test_adapters_reload_to_the_live_logits(opened: tuple[Session, Prepared]) -> None:
    session, prepared = opened
    live = logits_of(prepared.model, IDS)
    report = export(session, prepared, 4 * BASE_CONTEXT, TEXT)
    assert (report.merged, report.logit_difference) == (False, None)
    loaded, tokenizer = scaler_wizard.load(session.path)
    assert torch.equal(logits_of(loaded, IDS), live)
    assert tokenizer.model_max_length == 4 * BASE_CONTEXT
    config = read_json(session.path / "model" / "config.json")
    assert config["rope_parameters"]["factor"] == 4.0 and config["max_position_embeddings"] == 4 * BASE_CONTEXT
    with pytest.raises(LoadError, match="no merged weights"):
        scaler_wizard.load(session.path, merged=True)


def test_merged_weights_load_in_plain_transformers(opened: tuple[Session, Prepared]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    session, prepared = opened
    live = logits_of(prepared.model, IDS)
    session.job = replace(session.job, export=replace(session.job.export, merge=True))
    report = export(session, prepared, 4 * BASE_CONTEXT, TEXT)
    assert report.merged and report.logit_difference is not None and report.logit_difference <= report.tolerance
    plain = AutoModelForCausalLM.from_pretrained(str(session.path / "model"), dtype=torch.float32).eval()
    assert (logits_of(plain, IDS) - live).abs().max() < 1e-3
    tokenizer = AutoTokenizer.from_pretrained(str(session.path / "model"))
    prompt = tokenizer("amber birch", return_tensors="pt")["input_ids"]
    assert plain.generate(prompt, max_new_tokens=3, do_sample=False, pad_token_id=0).shape[1] > prompt.shape[1]
    with_adapters, _ = scaler_wizard.load(session.path, merged=False)
    assert torch.equal(logits_of(with_adapters, IDS), live)


def test_a_merge_that_computes_something_else_is_not_written(opened: tuple[Session, Prepared], monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is real: weights are disturbed between merging and writing, as a broken merge would."""
    session, prepared = opened
    session.job = replace(session.job, export=replace(session.job.export, merge=True))
    merge = prepared.model.merge_and_unload

    def broken(*args: Any, **kwargs: Any) -> Any:
        model = merge(*args, **kwargs)
        with torch.no_grad():
            model.model.norm.weight.mul_(1.5)
        return model

    monkeypatch.setattr(prepared.model, "merge_and_unload", broken)
    with pytest.raises(ExportMismatch, match="differ by"):
        export(session, prepared, 4 * BASE_CONTEXT, TEXT)
    assert not (session.path / "model").exists()
    assert (session.path / "adapters" / "adapter_model.safetensors").is_file()


def test_patched_config_keeps_everything_else() -> None:
    base = {"hidden_size": 8, "rope_scaling": None, "rope_theta": 5.0, "max_position_embeddings": 512}
    patch = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5.0}, "max_position_embeddings": 1024}
    assert patched_config(base, patch) == {"hidden_size": 8, **patch}


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "adapters"
    replace_folder(target, lambda folder: (folder / "a").write_text("1"))

    def fails(folder: Path) -> None:
        (folder / "b").write_text("2")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        replace_folder(target, fails)
    assert [path.name for path in target.iterdir()] == ["a"]
    replace_folder(target, lambda folder: (folder / "c").write_text("3"))
    assert [path.name for path in target.iterdir()] == ["c"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapters"]


def test_an_unexported_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="has not been exported"):
        scaler_wizard.load(tmp_path)


def test_a_relative_base_is_found_from_where_the_run_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = tmp_path / "began"
    began.mkdir()
    write_model(began / "model")
    monkeypatch.chdir(began)
    RunDir.create(tmp_path / "run", kind="test", command=["x"]).close()
    monkeypatch.chdir(tmp_path)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["cwd"] == str(began)
    assert base_reference(tmp_path / "run", "model") == str(began / "model")
    assert base_reference(tmp_path / "run", "owner/name") == "owner/name"
