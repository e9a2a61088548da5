"""Our own entry points, read without importlib.metadata and without importing what they name."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from modelwright import entrypoints
from modelwright.entrypoints import entry_points, is_importable

GROUPS = ("modelwright.commands", "modelwright.schemas", "console_scripts", "no.such.group")


@pytest.mark.parametrize("group", GROUPS)
def test_the_same_as_the_standard_library_says(group: str) -> None:
    try:
        distribution = metadata.distribution("modelwright")
    except metadata.PackageNotFoundError:
        pytest.skip("the distribution is not installed")
    expected = {entry.name: entry.value for entry in distribution.entry_points if entry.group == group}
    assert entry_points(group) == expected


def test_a_source_tree_that_is_not_installed_reads_its_project_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "modelwright"\n[project.entry-points."g"]\na = "m:f"\n')
    assert entrypoints._from_source_tree(project, "g") == {"a": "m:f"}
    project.write_text('[project]\nname = "other"\n[project.entry-points."g"]\na = "m:f"\n')
    assert entrypoints._from_source_tree(project, "g") == {}
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["entry-points"]
    assert entry_points("modelwright.commands") == declared["modelwright.commands"]


def test_what_is_importable_is_found_without_importing_it() -> None:
    script = (
        "import sys; from modelwright.entrypoints import is_importable as ok\n"
        "assert ok('xml.dom.minidom:x') and ok('json:x') and ok('modelwright.runs_cli:main')\n"
        "assert not ok('xml.dom.nothing:x') and not ok('nothing_here.a:x') and not ok('json.decoder.deeper:x')\n"
        "assert 'xml' not in sys.modules and 'modelwright.runs_cli' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_package_is_not_importable() -> None:
    assert not is_importable("surely_not_installed:main")
