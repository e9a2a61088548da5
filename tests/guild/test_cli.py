"""The front command: a table of contents, dispatch, nothing heavy imported for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from guild import cli

HEAVY = ("torch", "transformers", "pydantic", "apsw", "yaml")


def test_only_commands_whose_modules_are_there_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "ghost", ("guild.no_such_module", "haunts"))
    assert {"campaign", "config", "init"} <= set(cli.commands()) and "ghost" not in cli.commands()
    assert cli.main([]) == 0 and "ghost" not in (text := capsys.readouterr().out)
    assert "campaigns and heroes" in text and "exit codes:" in text and "example:" in text
    assert cli.main(["ghost"]) == 2
    assert "not part of this installation" in capsys.readouterr().err


def test_unknown_commands_name_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["campain"]) == 2
    assert "Did you mean `guild campaign`?" in capsys.readouterr().err


def test_the_rest_of_the_line_and_the_exit_code_pass_through(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    assert cli.main(["campaign", "active", "--base-dir", str(tmp_path)]) == 1
    assert "No campaign is active" in capsys.readouterr().err
    with pytest.raises(SystemExit) as usage:
        cli.main(["campaign", "dance"])
    assert usage.value.code == 2
    assert cli.main(["--version"]) == 0 and capsys.readouterr().out.startswith("guild ")


@pytest.mark.parametrize("arguments", [["--help"], ["campaign", "--help"], ["config", "--help"], ["init", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom guild.cli import main\n"
        f"try:\n    code = main({arguments!r})\nexcept SystemExit as end:\n    code = end.code\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\nassert not heavy, heavy\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"}, check=False)
    assert done.returncode == 0, done.stderr
    assert "exit codes" in done.stdout and "example" in done.stdout
