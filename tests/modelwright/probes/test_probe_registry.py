from __future__ import annotations

import sys
from pathlib import Path

import pytest

from modelwright.errors import UsageError
from modelwright.probes.registry import find_probes

GOOD = """
class Good:
    name = "good"; metric = "accuracy"; higher_is_better = True; min_length = 1
    def build(self, tokenizer, length, n, seed, variant="raw"): return []
    def score(self, item, output): return 0.0
    def aggregate(self, scores, length): raise NotImplementedError
class Thief(Good):
    name = "passkey"
class Partial:
    name = "partial"
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real installed distribution, as pip leaves it: modules and a dist-info with entry points."""
    (tmp_path / "probe_pack.py").write_text(GOOD)
    (tmp_path / "probe_broken.py").write_text("raise ValueError('does not import')\n")
    info = tmp_path / "probe_pack-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: probe-pack\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[modelwright_test.probes]\ngood = probe_pack:Good\nbroken = probe_broken:X\nthief = "
        "probe_pack:Thief\npartial = probe_pack:Partial\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "probe_pack", raising=False)


@pytest.mark.usefixtures("installed")
def test_entry_points_are_found_and_broken_ones_reported() -> None:
    registry = find_probes("modelwright_test.probes")
    assert set(registry.probes) == {"passkey", "good"}
    problems = "\n".join(sorted(registry.problems))
    assert len(registry.problems) == 3
    assert "ValueError: does not import" in problems
    assert "it lacks metric, higher_is_better, min_length, build, score, aggregate" in problems
    assert "the name 'passkey' is taken" in problems


def test_unknown_name_lists_what_there_is() -> None:
    assert find_probes().get("passkey").name == "passkey"
    with pytest.raises(UsageError, match="'needle' is unknown; there are passkey"):
        find_probes().get("needle")
