"""Cells and their order, the knobs of Stage 1, prompts of a wanted length, leaks, size words, machine facts: the pure parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macprovider.autotune.candidate.leaks import FALLBACK, collected, stop_texts
from macprovider.autotune.measuring.prompts import Sizing, ceiling, measured_prompt, prompt
from macprovider.autotune.measuring.sse import DONE, content_of, count_of, error_of, events
from macprovider.autotune.plan import Knobs, cells, fit_knobs, serve_command
from macprovider.autotune.records.history import proved_infeasible
from macprovider.autotune.records.machine import this_machine
from macprovider.autotune.records.recommendation import alternates
from macprovider.autotune.records.report import nothing_fits


def test_cells_go_kv_bits_outermost_context_innermost() -> None:
    found = cells((None, 4), (2, 1), (4000, 8000), 4000)
    assert found == [
        Knobs(None, 2, 4000), Knobs(None, 2, 8000), Knobs(None, 1, 4000), Knobs(None, 1, 8000),
        Knobs(4, 2, 4000), Knobs(4, 2, 8000), Knobs(4, 1, 4000), Knobs(4, 1, 8000),
    ]  # fmt: skip
    assert len(cells((None, 4, 8), (1, 2), (), 4000)) == 6 and cells((None,), (1,), (), 4000) == [Knobs(None, 1, 4000)]


@pytest.mark.parametrize(("target", "ram", "asked"), [(20_000, 8, None), (20_001, 8, 20_001), (50_000, 16, None), (120_001, 32, 120_001)])
def test_stage_one_asks_for_a_context_only_above_the_tier(target: int, ram: float, asked: int | None) -> None:
    assert fit_knobs(target, ram) == Knobs(None, 1, asked)


def test_the_serve_command_leaves_unset_out() -> None:
    assert serve_command("o/m", Knobs(None, 1, 4000)) == "macprovider-cli serve --model o/m --max-batch 1 --max-context 4000"
    assert "--kv-bits 8" in serve_command("o/m", Knobs(8, 1, 4000))


def test_the_serve_command_names_an_engine_that_serve_would_not_take_by_itself() -> None:
    assert serve_command("o/m", Knobs(), "openvino") == "macprovider-cli serve --model o/m --engine openvino --max-batch 1"
    assert "--engine" not in serve_command("o/m", Knobs())


def test_a_small_context_is_filled_and_never_passed() -> None:
    for target, answer in ((40, 8), (64, 16), (96, 48), (256, 16)):
        most, sizing = target - answer, Sizing(4.0, True)
        lengths = [len(measured_prompt(number, sizing, target, answer)) / 4.0 for number in range(5)]
        assert all(0.7 * most <= length <= most - min(8, 0.05 * most) + 1 for length in lengths), (target, lengths)


def test_alternates_are_smaller_and_later() -> None:
    listed = ["a/32B", "a/7B", "a/7B-4bit", "a/unknown", "a/70B"]
    assert alternates(listed, "a/7B") == ["a/7B-4bit", "a/unknown"]
    assert alternates(listed, None) == []


def test_reasons_come_smallest_first_whatever_the_lists_order() -> None:
    failed = [{"model": model, "rank": rank, "reason": "x"} for rank, model in enumerate(["a/3B", "a/32B", "a/1B"], start=1)]
    told = nothing_fits(4000, failed)
    assert [line.split(":")[0].strip() for line in told.splitlines()[1:4]] == ["a/1B", "a/3B", "a/32B"]


@given(st.integers(0, 500), st.integers(200, 20_000))
def test_a_prompt_has_the_wanted_length(number: int, characters: int) -> None:
    assert characters - 25 <= len(prompt(number, characters)) <= characters


@given(st.integers(60, 4000), st.integers(1, 48), st.floats(2.0, 8.0), st.integers(0, 10))
def test_a_corrected_prompt_fills_the_target_and_never_passes_it(target: int, answer: int, ratio: float, template: int) -> None:
    room = ceiling(target, answer)
    if room < 100:
        return
    warm_up = prompt(0, int(0.75 * room * 4))
    sizing = Sizing().corrected(len(warm_up), int(len(warm_up) / ratio) + template)
    tokens = int(len(measured_prompt(1, sizing, target, answer)) / ratio) + template
    assert tokens <= room
    assert tokens >= 0.85 * room or room < 200


def test_no_two_prompts_begin_alike() -> None:
    openings = {prompt(number, 400).split(".")[0] for number in range(1000)}
    assert len(openings) == 1000


def test_a_sizing_is_corrected_once() -> None:
    once = Sizing().corrected(1000, 500)
    assert once.characters_per_token == 2 and once.corrected(1000, 100) == once
    assert Sizing().corrected(1000, None) == Sizing()


def test_stop_texts_come_from_the_models_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "eos_token": "</s>",
        "bos_token": {"content": "<s>"},
        "added_tokens_decoder": {
            "1": {"content": "<|tool|>", "special": True}, "2": {"content": "plain", "special": False},
            "3": {"content": "x", "special": True}, "4": {"content": "  ", "special": True},
        },
    }  # fmt: skip
    assert collected(config) == ("</s>", "<s>", "<|tool|>")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert stop_texts("some/model") == FALLBACK
    snapshot = tmp_path / "models--some--model" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "tokenizer_config.json").write_text(json.dumps(config))
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(snapshot.name)
    newer = snapshot.with_name("b" * 40)  # of another revision, which no provider loads
    newer.mkdir()
    (newer / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<other>"}))
    assert stop_texts("some/model") == ("</s>", "<s>", "<|tool|>")
    (snapshot / "tokenizer_config.json").write_text("{broken")
    assert stop_texts("some/model") == FALLBACK
    assert all("<" in text for text in stop_texts("modelwright/tiny-0.4m"))


def test_a_stream_is_read_with_patience() -> None:
    lines = [
        b": comment\n", b"event: x\n", b"data: {broken\n", b"\n", b"data: [1]\n", b'data: {"choices": [{"delta": {"content": null}}]}\r\n',
        b'data: {"choices": [{"delta": {"content": "a\xc3\xa4"}}], "more": 1}\n', b'data:{"choices": [], "usage": {"prompt_tokens": 3}}\n',
        b'data: {"error": {"code": "c", "message": "m"}}\n', b"data: [DONE]\n",
    ]  # fmt: skip
    found = list(events(lines))
    assert found[-1] == DONE and len(found) == 5
    objects = [event for event in found if isinstance(event, dict)]
    assert [content_of(event) for event in objects] == ["", "aä", "", ""]
    assert count_of(objects[2], "prompt_tokens") == 3 and count_of(objects[0], "prompt_tokens") is None
    assert error_of(objects[3]) == "c: m" and error_of(objects[0]) == ""


def test_this_machine_has_a_name() -> None:
    found = this_machine("transformers")
    assert found.ram_gb >= 1 and found.chip and found.os_version and found.binary_version


def test_nothing_on_record_proves_nothing() -> None:
    from macprovider.autotune.arguments import parse

    assert proved_infeasible([], [], parse(["--candidate-models", "a"])[0], this_machine("transformers")) == {}
