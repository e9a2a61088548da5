"""The table of kinds and their payloads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from guild.records.job_errors import UnknownKindError
from guild.records.kinds import KINDS, PRIORITY_NUMBERS, RESOURCES, SLOTS, kind_of, kinds_of, level_of, priority_number
from modelwright.errors import ConfigError, UsageError

SMALLEST = {
    "train_file": {"file": "train_bin_level1_100.jsonl"},
    "scale": {"arguments": ["job.yaml"]},
    "medic_train": {"arguments": ["--config", "a.yaml"]},
    "medic_eval": {"arguments": ["--run", "r"]},
    "sweep": {"arguments": ["sweep.yaml"]},
    "autotune": {"arguments": ["--target-context", "4096"]},
    "eval": {"step": 500, "checkpoint": "checkpoint-500", "skill": "bin"},
    "sparring": {"skill": "bin", "count": 50},
    "data_gen": {"count": 100},
    "retention": {},
    "health_check": {},
    "report": {"name": "drift"},
}


def test_every_kind_of_the_decision_is_there_with_sensible_limits() -> None:
    assert set(KINDS) == set(SMALLEST)
    for kind in KINDS.values():
        assert kind.resource in RESOURCES and SLOTS[kind.resource] >= 1
        assert kind.max_attempts >= 1 and kind.max_crashes >= 1 and kind.timeout_s > 0
        assert kind.max_pending >= 1 and kind.max_running >= 1
    assert sorted(name for resource in RESOURCES for name in kinds_of(resource)) == sorted(KINDS)


def test_one_job_trains_at_a_time_and_one_generates() -> None:
    assert SLOTS["trainer"] == 1
    assert set(kinds_of("trainer")) >= {"train_file", "scale", "medic_train", "sweep", "autotune"}
    assert KINDS["data_gen"].max_running == 1


@pytest.mark.parametrize("name", sorted(SMALLEST))
def test_a_payload_gets_its_defaults_and_an_unknown_field_is_a_fault(name: str) -> None:
    checked = kind_of(name).check(SMALLEST[name])
    assert checked["schema_version"] == 1
    assert {key: checked[key] for key in SMALLEST[name]} == SMALLEST[name]
    assert kind_of(name).check(checked) == checked
    with pytest.raises(ConfigError, match="colour"):
        kind_of(name).check({**SMALLEST[name], "colour": "red"})


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as refusal:
        kind_of("sparring").check({"count": 0, "level": -1, "skil": "bin"})
    assert {fault.path for fault in refusal.value.faults} == {"count", "level", "skil", "skill"}


@pytest.mark.parametrize("name", ["a.json", "../a.jsonl", "folder/a.jsonl", ".hidden.jsonl", ".jsonl", "a\nb.jsonl", ""])
def test_a_file_is_named_by_a_plain_jsonl_name(name: str) -> None:
    with pytest.raises(ConfigError, match="file"):
        kind_of("train_file").check({"file": name})


def test_an_evaluation_has_exactly_one_subject() -> None:
    for subject in ({}, {"skill": "bin", "passive": "arithmetic"}):
        with pytest.raises(ConfigError, match="exactly one of skill and passive"):
            kind_of("eval").check({"step": 1, "checkpoint": "checkpoint-1", **subject})


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(UnknownKindError, match=r"found 'train_fil'; allowed: train_file, scale, .*Did you mean 'train_file'"):
        kind_of("train_fil")


def test_levels_and_numbers_belong_together() -> None:
    for level, number in PRIORITY_NUMBERS.items():
        assert level_of(priority_number(level)) == level == level_of(number)
    assert [level_of(number) for number in (99, 25, 20, 19, -5)] == ["high", "normal", "normal", "low", "low"]
    with pytest.raises(UsageError, match="'urgent'; allowed: high, normal, low"):
        priority_number("urgent")  # type: ignore[arg-type]


def test_the_table_needs_no_pydantic() -> None:
    code = "import sys, guild.records.kinds; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
