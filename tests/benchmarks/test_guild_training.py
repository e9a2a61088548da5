"""The benchmark of the guild's training at tiny size, run whole as a process, and its arithmetic against closed forms."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.guild_training import figures
from benchmarks.guild_training.run import checks, parse, without_paths
from benchmarks.guild_training.subjects import QWEN3, SIZES

from modelwright.loading import count_parameters

ROOT = Path(__file__).parents[2]
HAS_8BIT = importlib.util.find_spec("bitsandbytes") is not None


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything at tiny size on the processor."""
    folder = tmp_path_factory.mktemp("bench")
    out = folder / "result.json"
    words = ["--what", "all", "--size", "tiny", "--device", "cpu", "--scratch", str(folder), "--out", str(out)]
    command = [sys.executable, "-m", "benchmarks.guild_training.run", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, env=dict(os.environ))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert str(folder) not in out.read_text(encoding="utf-8") and str(ROOT) not in out.read_text(encoding="utf-8")
    return dict(json.loads(out.read_text(encoding="utf-8")))


def of(result: dict[str, Any], optimizer: str) -> dict[str, dict[str, Any]]:
    return {row["side"]: row for row in result["results"]["optimizers"] if row["optimizer"] == optimizer}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adamw", "muon", "adamw_8bit", "paged_adamw_8bit"])
def test_item_50_every_optimizer_lowers_the_loss_and_goes_on_or_names_its_package(result: dict[str, Any], kind: str) -> None:
    sides = of(result, kind)
    if "8bit" in kind and not HAS_8BIT:
        assert set(sides) == {"guild"} and sides["guild"]["outcome"] == "refused"
        assert sides["guild"]["message"].startswith(f"optimizer {kind}: found no package bitsandbytes")
        return
    ours, stock = sides["guild"], sides["stock Trainer"]
    for row in (ours, stock):
        assert (row["outcome"], row["steps"] >= 10, len(row["losses"])) == ("trained", True, row["steps"])
        assert row["loss_last"] < row["loss_first"]
        assert row["peak"]["bytes"] > 0 and row["tokens_per_s"] > 0 and row["mfu"] > 0
        assert row["state"]["bytes"] == pytest.approx(row["state_bytes_expected"], rel=0.02)
    resume, half = ours["resume"], ours["steps"] // 2
    assert (resume["stopped_at"], resume["began_at"], resume["first_step"], resume["last_step"]) == (half, half, half + 1, ours["steps"])
    assert resume["note"] == ""
    assert ours["validation_loss_last"] < ours["validation_loss_first"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("adamw", "torch.optim.adamw.AdamW"), ("muon", "guild.training.optimizers.muon.MuonWithAdamW")])
def test_the_optimizer_at_work_is_the_one_named_and_follows_the_stock_trainer(result: dict[str, Any], kind: str, name: str) -> None:
    ours, stock = of(result, kind)["guild"], of(result, kind)["stock Trainer"]
    assert ours["state"]["class"] == ours["resumed_state"]["class"] == stock["state"]["class"] == name
    assert ours["resumed_state"]["bytes"] == ours["state"]["bytes"]
    assert ours["losses"][0] == pytest.approx(stock["losses"][0], abs=1e-4)
    far = ours["loss_difference_to_stock"]
    assert far["before_resume"] < 0.02 and far["behind_resume"] < 0.05


@pytest.mark.slow
@pytest.mark.skipif(not HAS_8BIT, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("kind", ["adamw_8bit", "paged_adamw_8bit"])
def test_item_11_the_state_at_work_has_eight_bits_before_and_behind_the_resume(result: dict[str, Any], kind: str) -> None:
    ours = of(result, kind)["guild"]
    for state in (ours["state"], ours["resumed_state"]):
        assert state["class"].startswith("bitsandbytes.optim.") and state["bytes_by_format"]["uint8"] > 0


@pytest.mark.slow
def test_item_51_the_recipe_trains_five_steps_or_names_what_is_missing(result: dict[str, Any]) -> None:
    real, *rest = result["results"]["recipe"]
    told = real["settings"]
    assert (told["precision"], told["optimizer"], told["batch_size"], told["gradient_accumulation"]) == ("bf16", "paged_adamw_8bit", 1, 32)
    assert (told["max_length"], told["learning_rate"], told["warmup_steps"], told["lr_scheduler"]) == (512, 2e-5, 10, "cosine")
    assert told["gradient_checkpointing"] and told["liger_kernel"] and told["packing"]
    if real["outcome"] == "refused":
        assert "liger_kernel.enabled: found true" in real["message"]
        assert HAS_8BIT or "optimizer: found paged_adamw_8bit, which needs bitsandbytes" in real["message"]
        (real,) = rest
        assert real["settings"] == told | {"precision": "fp32", "optimizer": "adamw", "liger_kernel": False}
    assert (real["outcome"], real["steps"], real["resume"]["began_at"], real["resume"]["last_step"]) == ("trained", 5, 5, 6)
    assert real["peak"]["bytes"] > 0 and real["forecast"]["bytes"] > 0
    assert real["state"]["bytes"] == pytest.approx(real["state_bytes_expected"], rel=0.02)


@pytest.mark.parametrize(("size", "billions"), [("0.6b", 0.596), ("4b", 4.02)])
def test_the_shapes_are_those_of_qwen3(size: str, billions: float) -> None:
    shape = SIZES[size].shape
    counted = count_parameters(SIZES[size].body)
    assert shape.parameters() == counted and counted / 1e9 == pytest.approx(billions, abs=0.005)


def test_operations_of_a_token_are_six_for_a_parameter_and_three_times_attention() -> None:
    shape = SIZES["4b"].shape
    matmul = figures.matmul_parameters(shape)
    assert matmul == shape.parameters() - shape.norm_parameters()
    assert figures.flop_per_token(shape, 0) == 6 * matmul
    assert figures.flop_per_token(shape, 512) - 6 * matmul == 3 * 2 * 36 * 512 * 32 * 128
    assert figures.flop_per_token(shape, 512, recomputed=True) == pytest.approx(4 / 3 * figures.flop_per_token(shape, 512))
    assert figures.utilisation(shape, 512, 1000, 1000 * figures.flop_per_token(shape, 512)) == 1


def test_the_forecast_of_the_recipe_needs_pages_and_adamw_does_not_fit() -> None:
    shape = SIZES["4b"].shape
    made = {
        kind: figures.memory_forecast(shape, kind, precision="bf16", length=512, recomputed=True, fused_loss=True, device="cuda", held=0)
        for kind in ("adamw", "paged_adamw_8bit")
    }
    paged = made["paged_adamw_8bit"]
    assert made["adamw"]["bytes"] - paged["bytes"] == pytest.approx(1.1 * (made["adamw"]["state_bytes"] - paged["state_bytes"]), rel=1e-6)
    assert paged["bytes"] - 1.1 * paged["state_bytes"] < 24e9 < paged["bytes"] < made["adamw"]["bytes"]


def test_rates_leave_the_first_steps_of_every_call_out() -> None:
    ends = [0.0, 9.0, 11.0, 12.0, 13.0]
    assert figures.rates([(ends, [7, 7, 100, 100])]) == {"timed_steps": 2, "tokens_per_s": 100.0, "ms_per_step": 1000.0}
    assert figures.rates([(ends, [7, 7, 100, 100])] * 2)["timed_steps"] == 4
    assert figures.rates([([0.0, 1.0], [5])])["tokens_per_s"] is None


def test_a_check_fails_for_a_rising_loss_a_wrong_step_and_too_much_memory() -> None:
    resume = {"stopped_at": 5, "began_at": 4, "first_step": 5, "last_step": 10, "total_steps": 10}
    state = {"class": "x", "bytes": 8, "paged_bytes": 8}
    row = {"optimizer": "adamw", "side": "guild", "outcome": "trained", "steps": 10, "loss_first": 1.0, "loss_last": 1.5, "resume": resume}
    row |= {"state": state, "resumed_state": state | {"paged_bytes": 0}}
    small, large = {"bytes": int(23e9)}, {"bytes": int(25e9)}
    recipe = {"hero": "h", "outcome": "trained", "steps": 5, "stand_in": False, "peak": small, "resumed_peak": large}
    recipe |= {"state": state, "resumed_state": state}
    recipe["resume"] = {"stopped_at": 5, "began_at": 5, "last_step": 7}
    found = dict(checks({"optimizers": [row], "recipe": [recipe]}, "cuda"))
    assert [name for name, holds in found.items() if not holds] == [
        "adamw, guild: the loss falls",
        "adamw, guild: goes on at the right step",
        "adamw, guild: the resumed state is as large and as paged",
        "h: below 24 GB when gone on with",
    ]
    unnamed = {"optimizer": "muon", "side": "guild", "outcome": "refused", "message": "no"}
    assert not any(dict(checks({"optimizers": [unnamed]}, "cpu")).values())


def test_places_of_the_machine_do_not_end_in_results() -> None:
    found = without_paths({"a": ["in /tmp/x/rows", 3], "b": ("/tmp/x",)}, [("/tmp/x", "<scratch>")])
    assert found == {"a": ["in <scratch>/rows", 3], "b": ["<scratch>"]}
    assert QWEN3["vocab_size"] == 151936


def test_a_missing_gpu_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    from modelwright.hardware import inventory

    if inventory().gpu_count != 0:
        pytest.skip("there is a GPU, or nobody can tell")
    with pytest.raises(SystemExit) as ended:
        parse(["--device", "cuda"])
    assert ended.value.code == 2 and "allowed here: cpu" in capsys.readouterr().err
