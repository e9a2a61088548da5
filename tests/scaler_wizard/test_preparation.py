"""`--resize-embeddings`: refused without it, trained and exported with it, for tied and untied output heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import scaler_wizard
from helpers.small_job import small_job, write_model, write_text
from helpers.tiny_random import byte_tokenizer, random_llama
from modelwright.files import read_json
from scaler_wizard.arguments import parse
from scaler_wizard.runner import run_job
from scaler_wizard.strategies.lora import head_name

NEW = ["<|note|>", "<|tool|>", "<|think|>"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def wider_tokenizer(folder: Path) -> Path:
    """The byte tokenizer with three more tokens: 263 ids for a model of 260 rows."""
    byte_tokenizer().save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens(NEW, special_tokens=True)
    tokenizer.save_pretrained(folder)
    return folder


def job_of(root: Path, tied: bool, **model: object) -> dict[str, object]:
    write_model(root / "model", tie_word_embeddings=tied)
    write_text(root / "data.jsonl")
    job = small_job(
        root,
        scaling={"growth": "single_shot", "train_embeddings": "off"},
        training={"steps_per_rung": 1},
        evaluation={"eval_every": 0, "eval_tokens": 512},
        gate={"max_growth": 4.0},
        export={"merge": True},
    )
    job["model"].update(tokenizer=str(wider_tokenizer(root / "tokenizer")), **model)
    return job


def test_more_ids_than_rows_are_refused_without_the_flag(tmp_path: Path) -> None:
    result = run_job(job_of(tmp_path, True))
    assert (result.status, result.exit_code) == ("failed", 5)
    assert "ids up to 262" in result.message and "260 embedding rows" in result.message and "--resize-embeddings" in result.message


@pytest.mark.timeout(600)
@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_survive_export_and_plain_loading(tmp_path: Path, tied: bool) -> None:
    """Merged weights in plain transformers, and base with adapters through our loader, give the same logits for new tokens."""
    result = run_job(job_of(tmp_path, tied, resize_embeddings=True))
    assert result.status == "completed", result.message
    run = tmp_path / "run"
    assert read_json(run / "model" / "config.json")["vocab_size"] == 263
    plain = AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    ids = tokenizer("amber <|note|> birch <|tool|> cedar<|think|>", return_tensors="pt")["input_ids"]
    assert {260, 261, 262} <= set(ids[0].tolist())
    torch.manual_seed(12345)  # the loader must not draw the new rows anew
    adapted, _ = scaler_wizard.load(run, merged=False)
    torch.manual_seed(54321)
    again, _ = scaler_wizard.load(run, merged=False)
    with torch.no_grad():
        expected, found, repeated = (model(input_ids=ids).logits for model in (plain, adapted, again))
    assert expected.shape[-1] == 263
    assert torch.equal(found, repeated)
    assert torch.allclose(found, expected, atol=1e-3)


def test_both_flags_reach_the_job_document() -> None:
    given = parse(["--base-model", "m", "--resize-embeddings", "--calibrate"])
    assert given.settings["model"]["resize_embeddings"] is True and given.settings["evaluation"]["calibrate"] is True
    assert not given.faults


def test_the_head_is_found_by_name() -> None:
    assert head_name(random_llama(tie_word_embeddings=False)) == "lm_head"
