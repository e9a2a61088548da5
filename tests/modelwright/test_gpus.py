"""GPU detection: a machine without a GPU is known to have none; nvidia-smi's table is read; what cannot be read is
said.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelwright.gpus import find_gpus

SMI = """#!/bin/sh
[ "$2" = "--format=csv,noheader,nounits" ] || exit 3
echo "0, GPU-aaaa-1, Card A, 24576, 20480, 8.6, 550.1"
echo "1, GPU-bbbb-2, Card B, 81920, [N/A], 9.0, 550.1"
"""


@pytest.fixture
def device(tmp_path: Path) -> Path:
    folder = tmp_path / "dev"
    folder.mkdir()
    return folder


@pytest.fixture
def smi(tmp_path: Path, device: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an NVIDIA device whose `nvidia-smi` answers; the management library is absent, as in most
    installs.
    """
    (device / "nvidiactl").touch()
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    return program


def test_no_device_means_no_gpu(device: Path) -> None:
    found = find_gpus(device, {})
    assert found.known and found.gpus == []


def test_nvidia_smi_is_read(device: Path, smi: Path) -> None:
    found = find_gpus(device, {})
    assert found.known and found.how == "nvidia-smi" and found.driver == "550.1"
    first, second = found.gpus
    assert (first.name, first.vram_total_gb, first.vram_free_gb, first.compute_capability) == ("Card A", 24.0, 20.0, "8.6")
    assert (second.vram_total_gb, second.vram_free_gb) == (80.0, None)


@pytest.mark.parametrize(
    ("visible", "names"),
    [("1", ["Card B"]), ("GPU-aaaa", ["Card A"]), ("", []), ("-1", []), ("7", []), ("0,1", ["Card A", "Card B"])],
)
def test_only_visible_gpus_count(device: Path, smi: Path, visible: str, names: list[str]) -> None:
    found = find_gpus(device, {"CUDA_VISIBLE_DEVICES": visible})
    assert found.known and [gpu.name for gpu in found.gpus] == names


def test_a_device_nobody_can_read_is_not_a_machine_without_gpu(device: Path, smi: Path) -> None:
    smi.write_text("#!/bin/sh\nexit 9\n")
    found = find_gpus(device, {})
    assert not found.known and found.gpus == []
    assert "nvidia-ml-py is not installed" in found.why and "nvidia-smi ends with 9" in found.why


def test_an_amd_device_is_said_to_be_unread(device: Path) -> None:
    (device / "kfd").touch()
    found = find_gpus(device, {})
    assert not found.known and "AMD" in found.why
