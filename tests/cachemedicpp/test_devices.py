"""Devices are named, checked against the machine, and half types run as float32 on the CPU."""

from __future__ import annotations

import pytest

from cachemedicpp.config.devices import check_device, runtime_device, runtime_dtype
from modelwright.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "available", "count", "says"),
    [
        ("auto", True, 1, "'auto'; allowed: cpu, cuda or cuda:<i>"),
        ("cuda", False, 0, "no CUDA device"),
        ("cuda:0", False, 0, "no CUDA device"),
        ("cuda:2", True, 2, "allowed: cpu, cuda, cuda:0, cuda:1"),
        ("mps", False, 0, "'mps'"),
        ("cuda:", True, 1, "'cuda:'"),
    ],
)
def test_a_device_that_is_not_there_names_the_key(name: str, available: bool, count: int, says: str) -> None:
    with pytest.raises(ConfigError, match=r"^device: ") as caught:
        check_device(name, available, count)
    assert says in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize(("name", "available", "count"), [("cpu", False, 0), ("cuda", True, 1), ("cuda:1", True, 2)])
def test_a_device_that_is_there_passes(name: str, available: bool, count: int) -> None:
    check_device(name, available, count)


def test_this_machine_is_asked() -> None:
    assert runtime_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="device"):
        runtime_device("cuda:99")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_half_types_run_as_float32_on_the_cpu(dtype: str) -> None:
    assert runtime_dtype(dtype, "cpu") == "float32"
    assert runtime_dtype(dtype, "cuda:0") == dtype
