"""`guild train-4b`: the plan says what will be trained and all that stands against it; what is begun is gone on with. (2.2.3, 3.8)"""

from __future__ import annotations

from pathlib import Path

import pytest

from guild import train_4b_full
from guild.places import Places
from guild.training.optimizers.optional import missing_packages
from helpers.guild_house import make_house
from helpers.guild_training import write_rows
from modelwright.errors import ConfigError


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return make_house(tmp_path / "house")


def words(places: Places, data: Path, output: Path, *more: str) -> list[str]:
    return ["--data", str(data), "--output", str(output), "--device", "cpu", "--base-dir", str(places.base), *more]


def test_the_shipped_hero_has_the_settings_of_the_specification(places: Places, tmp_path: Path) -> None:
    plan = train_4b_full.recipe(places, train_4b_full.DEFAULT_HERO, write_rows(tmp_path / "r.jsonl"), tmp_path / "o", "cuda")
    value = plan.effective.value
    assert (value.precision, value.load_in_4bit, value.qlora_enabled, value.optimizer) == ("bf16", False, False, "paged_adamw_8bit")
    assert (value.batch_size, value.gradient_accumulation, value.max_length) == (1, 32, 512)
    assert (value.learning_rate, value.warmup_steps, value.lr_scheduler) == (2e-5, 10, "cosine")
    assert value.gradient_checkpointing and all(value.liger_kernel.model_dump().values())
    text = "\n".join(plan.lines())
    for part in (
        "Qwen/Qwen3-4B in bf16, on cuda",
        "1 x 32 windows of at most 512 tokens",
        "paged_adamw_8bit, rate 2e-05, cosine, 10 steps",
    ):
        assert part in text
    assert "fused kernels: linear cross entropy, rms norm, swiglu, rope" in text and "18.6 GiB" in text


def test_a_dry_run_names_everything_that_is_missing_and_writes_nothing(
    places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_4b_full.main(words(places, tmp_path / "none.jsonl", tmp_path / "o", "--dry-run")) == 1
    told = capsys.readouterr()
    assert "all weights of Qwen/Qwen3-4B" in told.out
    assert "--data: found no file" in told.err and "model_path: found 'Qwen/Qwen3-4B'" in told.err
    assert "liger_kernel.enabled: found true" in told.err
    assert ("which needs bitsandbytes" in told.err) is bool(missing_packages("paged_adamw_8bit"))
    assert not (tmp_path / "o").exists()
    assert train_4b_full.main(words(places, write_rows(tmp_path / "r.jsonl"), tmp_path / "o", "--hero", "tiny", "--dry-run")) == 0
    assert "from the base model" in capsys.readouterr().out and not (tmp_path / "o").exists()


def test_what_was_stopped_is_gone_on_with_another_day_too(
    places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = words(places, write_rows(tmp_path / "r.jsonl"), tmp_path / "o", "--hero", "tiny", "--max-steps", "1")
    assert train_4b_full.main(given) == 0
    first = capsys.readouterr().out
    assert "from step 0" in first and "step 1 saved in" in first
    assert (tmp_path / "o" / "run" / "effective_config.json").is_file()
    made = train_4b_full.recipe(places, "tiny", tmp_path / "r.jsonl", tmp_path / "o", "cpu")
    assert made.checkpoint is not None and made.checkpoint.name.startswith("checkpoint-1-")
    monkeypatch.setattr(train_4b_full, "SYSTEM_CLOCK", _Tomorrow())
    assert train_4b_full.main(given) == 0
    second = capsys.readouterr().out
    assert "going on from checkpoint-1-" in second and "from step 1" in second and "step 2 saved in" in second


class _Tomorrow:
    """A clock a day ahead: the base prompt of a file that is half trained must not change with it."""

    def now(self):  # type: ignore[no-untyped-def]
        from datetime import timedelta

        from modelwright.clock import SYSTEM_CLOCK

        return SYSTEM_CLOCK.now() + timedelta(days=1)


def test_checkpoints_of_another_hero_are_not_gone_on_with(places: Places, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "r.jsonl")
    assert train_4b_full.main(words(places, data, tmp_path / "o", "--hero", "tiny", "--max-steps", "1")) == 0
    plan = train_4b_full.recipe(places, "dio-qwen3-0.6b", data, tmp_path / "o", "cpu")
    assert "--output: found checkpoint-1-" in str(ConfigError(plan.faults)) and "of the hero tiny" in str(ConfigError(plan.faults))


def test_no_steps_is_a_wrong_argument(places: Places, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        train_4b_full.main(words(places, tmp_path / "r.jsonl", tmp_path / "o", "--max-steps", "0"))
    assert ended.value.code == 2
