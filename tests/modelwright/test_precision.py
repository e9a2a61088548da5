from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from modelwright.precision import ERROR_LIMIT, _decide, choose_matmul_precision


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_measures_sets_and_reports() -> None:
    state = torch.get_rng_state()
    choice = choose_matmul_precision()
    assert torch.get_float32_matmul_precision() == choice.precision
    assert 0 < choice.error_highest < 1e-5
    assert choice.precision == "highest" or choice.error_medium <= ERROR_LIMIT
    assert choice.reason and choice.seconds_highest > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert choice.as_dict()["precision"] == choice.precision


def test_a_resumed_run_keeps_its_choice() -> None:
    assert choose_matmul_precision(recorded="highest").precision == "highest"


@pytest.mark.parametrize(
    ("error", "speedup", "recorded", "expected"),
    [
        (1e-6, 1.5, None, "medium"),
        (1e-6, 1.0, None, "highest"),
        (2e-3, 8.0, None, "highest"),  # real bfloat16: fast, and not fp32 any more
        (1e-6, 1.0, "medium", "medium"),
        (1e-6, 9.0, "highest", "highest"),
        (2e-3, 9.0, "medium", "highest"),
    ],
)
def test_rule(error: float, speedup: float, recorded: str | None, expected: str) -> None:
    assert _decide(error, speedup, recorded)[0] == expected
