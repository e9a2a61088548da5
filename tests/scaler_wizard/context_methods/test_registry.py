"""Finding methods by id: built-in ones, those of other packages through real entry points, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelwright.errors import ConfigError, UsageError
from scaler_wizard.context_methods import available, choose_method, get_method
from scaler_wizard.context_methods.base import ContextMethod

BUILT_IN = ["linear", "ntk", "dynamic_ntk", "yarn"]


@pytest.mark.parametrize("method_id", BUILT_IN)
def test_built_in_methods_follow_the_protocol(method_id: str) -> None:
    method = get_method(method_id)
    assert isinstance(method, ContextMethod)
    assert method.id == method_id
    assert method.dynamic == (method_id == "dynamic_ntk")


def test_auto_is_ntk_to_32k_and_yarn_above() -> None:
    assert [choose_method(target) for target in (2048, 32_768, 32_769, 131_072)] == ["ntk", "ntk", "yarn", "yarn"]


def test_an_unknown_id_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"linear, ntk, dynamic_ntk, yarn.*did you mean yarn"):
        get_method("yarm")


def install(folder: Path, name: str, method_id: str, target: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package with one entry point of our group on the path, the way an installed distribution lies there."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[scaler_wizard.context_methods]\n{method_id} = {module}:{target}\n")
    monkeypatch.syspath_prepend(str(folder))


THIRD_PARTY = """
from dataclasses import replace
from scaler_wizard.context_methods.yarn import METHOD
HALF = replace(METHOD, id="half_yarn")
NOT_A_METHOD = 3
"""


def test_a_third_party_method_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "half-yarn", "half_yarn", "HALF", THIRD_PARTY, monkeypatch)
    assert available() == [*BUILT_IN, "half_yarn"]
    assert get_method("half_yarn").id == "half_yarn"


@pytest.mark.parametrize(("target", "message"), [("ABSENT", "does not load.*ABSENT"), ("NOT_A_METHOD", "does not follow the protocol")])
def test_an_unusable_third_party_method_is_named(target: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, f"broken-{target.lower()}", "broken", target, THIRD_PARTY, monkeypatch)
    with pytest.raises(UsageError, match=message):
        get_method("broken")


def test_two_owners_of_one_id_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first-owner", "second-owner"):
        (tmp_path / name).mkdir()
        install(tmp_path / name, name, "shared", "HALF", THIRD_PARTY, monkeypatch)
    with pytest.raises(UsageError, match=r"first_owner:HALF and second_owner:HALF"):
        get_method("shared")


def test_a_built_in_id_cannot_be_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "usurper", "yarn", "NOT_A_METHOD", THIRD_PARTY, monkeypatch)
    assert isinstance(get_method("yarn"), ContextMethod)
    assert available() == BUILT_IN
