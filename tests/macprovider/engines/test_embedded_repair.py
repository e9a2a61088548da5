"""A served model with a CacheMedic operator, against the same operator around the library's `generate`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from cachemedicpp.repair.attention import protecting
from cachemedicpp.repair.operator import RepairOperator, layout_of
from cachemedicpp.repair.spec import OperatorSpec
from cachemedicpp.training.state import repair_path, save_repair
from helpers.engine_listener import ask, engine_settings
from helpers.repair_toys import random_operator
from helpers.tiny_random import random_llama, save_model
from macprovider.engines.base import EngineError
from macprovider.engines.embedded.engine import TransformersEngine
from modelwright.errors import ModelwrightError
from modelwright.files import make_folder

PROMPTS = [[(13 * index + 5 * start) % 256 for index in range(length)] for start, length in ((1, 40), (2, 7), (3, 75), (4, 20))]
MODEL = random_llama(seed=4)
MODEL.generation_config.eos_token_id = None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), MODEL)


def saved(run: Path, operator: RepairOperator) -> Path:
    make_folder(run / "checkpoints")
    save_repair(repair_path(run, 1), operator, step=3, config_hash="0", model_name="toy")
    path = repair_path(run, 30)
    save_repair(path, operator, step=30, config_hash="0", model_name="toy")
    return path


def served(folder: Path, checkpoint: Path | None, **options: object) -> list[list[int]]:
    engine = TransformersEngine(engine_settings(folder, repair=checkpoint, max_batch=3, **options), piece=16)
    facts = engine.load()
    newest = checkpoint / "checkpoints" / "repair_step_30.pt" if checkpoint is not None and checkpoint.is_dir() else checkpoint
    assert "repair" in facts.features and facts.repair == (None if newest is None else str(newest))
    try:
        heard = [ask(engine, prompt, 20) for prompt in PROMPTS]
        assert all(answer.wait().reason == "length" for answer in heard)
        return [answer.ids for answer in heard]
    finally:
        engine.close()


def generated(operator: RepairOperator | None) -> list[list[int]]:
    found = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        with torch.no_grad(), nullcontext() if operator is None else protecting(MODEL, operator):
            done = MODEL.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20, pad_token_id=0)
        found.append(done[0, len(prompt) :].tolist())
    return found


@pytest.mark.parametrize("family", ["A", "B", "C", "D"])
def test_a_trained_operator_gives_the_tokens_of_the_reference(folder: Path, family: str, tmp_path: Path) -> None:
    operator = random_operator(layout_of(MODEL), dtype=torch.float32, family=family, protect_layers=(0, 1))
    path = saved(tmp_path / "run", operator)
    expected = generated(operator)
    assert expected != generated(None), "the operator must matter"
    assert served(folder, path) == expected
    if family == "A":  # the folder of a run stands for its newest checkpoint
        assert served(folder, tmp_path / "run") == expected


def test_an_untrained_operator_changes_nothing(folder: Path, tmp_path: Path) -> None:
    path = saved(tmp_path, RepairOperator(OperatorSpec("A", 4, (0, 1)), layout_of(MODEL)))
    assert served(folder, path) == served(folder, None) == generated(None)
    assert served(folder, path, kv_bits=8) == served(folder, None, kv_bits=8)


def test_an_operator_runs_over_a_quantised_cache(folder: Path, tmp_path: Path) -> None:
    operator = random_operator(layout_of(MODEL), dtype=torch.float32, protect_layers=(1,))
    repaired = served(folder, saved(tmp_path, operator), kv_bits=8)
    assert repaired != served(folder, None, kv_bits=8)
    agreed = sum(a == b for one, other in zip(repaired, generated(operator), strict=True) for a, b in zip(one, other, strict=True))
    assert agreed >= 60  # of 80: random weights amplify what eight bits lose


def test_what_is_not_served_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    layout = layout_of(MODEL)
    cases = [
        (random_operator(layout, dtype=torch.float32, family="D"), {"kv_bits": 8}, "family D"),
        (random_operator(layout, dtype=torch.float32, gate_rows="last"), {}, "gate_rows"),
        (random_operator(layout, dtype=torch.float32, renormalise=True), {}, "renormalise"),
        (random_operator(layout_of(random_llama(num_key_value_heads=4)), dtype=torch.float32), {}, "KV heads"),
    ]
    for index, (operator, options, word) in enumerate(cases):
        engine = TransformersEngine(engine_settings(folder, repair=saved(tmp_path / str(index), operator), **options))
        with pytest.raises(ModelwrightError, match=word):
            engine.load()
        engine.close()
    empty = TransformersEngine(engine_settings(folder, repair=tmp_path))
    with pytest.raises(EngineError, match="repair_step"):
        empty.load()
