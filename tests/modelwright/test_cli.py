"""The front door: a table of contents, dispatch by entry point, and nothing heavy imported for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelwright import __version__, cli


def modelwright(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modelwright.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution `modelwright` whose commands come from modules in a folder of their own."""
    info = tmp_path / "modelwright-9.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(
        "[modelwright.commands]\nzoo = toy_zoo:main\nscale = toy_scale:main\nmedic = not_installed_room:main\nbroken = toy_broken:main\n"
        "sad = toy_sad:main\n[other]\nx = y:z\n"
    )
    (tmp_path / "toy_zoo.py").write_text("def main(argv):\n    print('zoo', argv)\n    return 7\n")
    (tmp_path / "toy_scale.py").write_text("def main(argv):\n    return None\n")
    (tmp_path / "toy_broken.py").write_text("import some_missing_part\n")
    (tmp_path / "toy_sad.py").write_text(
        "from modelwright.errors import LoadError\ndef main(argv):\n    raise LoadError('No model there.')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_help_lists_installed_commands_in_order(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(cli.commands()) == ["scale", "broken", "sad", "zoo"]
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "stretch the context window" in text and "toy_zoo:main" in text and "medic" not in text
    assert "example:" in text and "exit codes:" in text


def test_the_rest_of_the_line_and_the_exit_code_pass_through(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["zoo", "--help", "-x"]) == 7
    assert capsys.readouterr().out == "zoo ['--help', '-x']\n"
    assert cli.main(["scale"]) == 0


def test_unknown_commands_name_the_nearest(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["scael"]) == 2
    assert "Did you mean `modelwright scale`?" in capsys.readouterr().err
    assert cli.main(["medic"]) == 2
    assert "not part of this installation" in capsys.readouterr().err


def test_a_missing_part_and_a_known_error_are_sentences(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["broken"]) == 1
    assert "needs the Python package 'some_missing_part'" in capsys.readouterr().err
    assert cli.main(["sad"]) == 5
    assert capsys.readouterr().err == "No model there.\n"


def test_version_and_no_arguments() -> None:
    done = modelwright("--version")
    assert (done.returncode, done.stdout) == (0, f"modelwright {__version__}\n")
    done = modelwright()
    assert done.returncode == 0 and done.stdout.startswith("usage: modelwright")


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from modelwright.cli import main; main(['--help'])\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'apsw', 'rich', 'argparse', 'importlib.metadata', 'orjson', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith("[]"), done.stderr


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m modelwright.cli --help | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
