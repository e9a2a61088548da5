"""`modelwright models`: light to start, readable, scriptable, clear about mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelwright import models_cli
from modelwright.tiny import TINY_NAMES


def test_listing_shows_the_whole_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert models_cli.main(["list"]) == 0
    text = capsys.readouterr().out
    assert all(f"modelwright/{name}" in text for name in TINY_NAMES)


def test_the_json_listing_names_folders_and_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert models_cli.main(["list", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in entries] == [f"modelwright/{name}" for name in TINY_NAMES]
    made = [entry for entry in entries if entry["path"] is not None]
    assert "modelwright/tiny-1.5m" in [entry["name"] for entry in made]
    for entry in made:
        assert Path(entry["path"], "config.json").is_file()
        assert entry["figures"]["measured"]["passkey"]["raw"]["512"] >= 0


def test_help_and_list_do_not_import_torch() -> None:
    code = (
        "import sys; from modelwright.models_cli import main; main(['list']); "
        "print([m for m in ('torch', 'transformers', 'pydantic', 'apsw') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        models_cli.main(["make-tiny", "--help"])
    assert stopped.value.code == 0
    assert "example: modelwright models make-tiny" in capsys.readouterr().out


def test_wrong_values_are_refused_with_what_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    assert models_cli.main(["make-tiny", "--seed", "-1"]) == 2
    assert "allowed are whole numbers" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        models_cli.main(["make-tiny", "--size", "7b"])
    assert stopped.value.code == 2
    assert "0.4m" in capsys.readouterr().err
