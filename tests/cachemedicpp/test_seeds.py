"""The hash of section 5.1 and the counter-based generators."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachemedicpp import seeds

LARGEST = 2147483646


def test_hash_follows_the_recurrence_by_hand() -> None:
    assert seeds.mix(1234, ()) == 1234
    assert seeds.mix(seeds.MODULUS + 5, ()) == 5
    first = (1234 * 1103515245 + 12345 + 1001) % 2147483647
    assert seeds.mix(1234, (1001,)) == first
    assert seeds.mix(1234, (1001, 7)) == (first * 1103515245 + 12345 + 7 + 97) % 2147483647


@settings(deadline=None)
@given(st.integers(0, 2**40), st.lists(st.integers(0, 2**40), max_size=6))
def test_hash_stays_below_the_modulus(base: int, parts: list[int]) -> None:
    assert 0 <= seeds.mix(base, parts) <= LARGEST


def test_training_counters_of_a_long_run_do_not_collide() -> None:
    numbers = {seeds.mix(1234, (seeds.CORRUPTION, seeds.TRAIN, step, 0, layer)) for step in range(4000) for layer in range(8)}
    assert len(numbers) == 4000 * 8


def test_equal_counters_give_equal_draws_and_different_ones_do_not() -> None:
    counter = (seeds.EVAL, 3, 14, 2)
    first, again = (torch.randn(8, generator=seeds.generator(7, seeds.CORRUPTION, *counter)) for _ in range(2))
    assert torch.equal(first, again)
    for other in (
        seeds.generator(8, seeds.CORRUPTION, *counter),
        seeds.generator(7, seeds.HEURISTIC, *counter),
        seeds.generator(7, seeds.CORRUPTION, *counter[:3], 3),
        seeds.generator(7, seeds.CORRUPTION, *counter, offset=1),
    ):
        assert not torch.equal(first, torch.randn(8, generator=other))


def test_generators_live_on_the_cpu_and_leave_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    assert seeds.generator(1, seeds.EVENT, 2).device.type == "cpu"
    assert torch.equal(before, torch.get_rng_state())


def test_offset_is_added_behind_the_hash() -> None:
    seed = seeds.mix(5, (seeds.SENSITIVITY, 1, 2, 3))
    assert seeds.generator(5, seeds.SENSITIVITY, 1, 2, 3, offset=1).initial_seed() == seed + 1


@pytest.mark.parametrize("names", [("wikitext2_ppl", "gaussian"), ("sst2_prompted", "quant_noise")])
def test_unit_numbers_are_the_same_in_another_process(names: tuple[str, ...]) -> None:
    code = f"from cachemedicpp.seeds import unit_number; print(unit_number(*{names!r}))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment())
    assert int(said.stdout) == seeds.unit_number(*names)
    assert seeds.unit_number(*names) != seeds.unit_number(*reversed(names))


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7"}
