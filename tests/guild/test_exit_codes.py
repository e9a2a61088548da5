"""Exit codes of every command, 0 done, 1 refused or failed, 2 wrong arguments, by `guild …` and by `python -m …` alike. (specs 3)"""

from __future__ import annotations

import importlib
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from guild import cli
from guild.command import answered
from guild.places import VARIABLE
from helpers.guild_house import make_house
from helpers.guild_training import write_rows
from modelwright.errors import ConfigError, DamagedFileError, Fault, LoadError, ModelwrightError, UsageError
from modelwright.files import write_json

CASES: dict[str, tuple[list[str], list[str], list[str]]] = {
    "init": (["--base-dir", "{file}/house"], ["--role", "king"], []),
    "demo": (["--base-dir", "{file}/house"], ["--minutes", "0"], ["--help"]),  # a demo that earns a level takes minutes
    "daemon": (["--set", "learning_rate=7"], ["--set", "learning_rate"], ["--help"]),  # the daemon's own tests end it with 0
    "control": (["resume"], ["dance"], ["status"]),
    "queue": (["set-priority", "none.jsonl", "high"], ["list", "--priority", "urgent"], ["status"]),
    "campaign": (["info", "tiny", "campaign-077"], ["new"], ["active"]),
    "config": (["lock", "--remove-lock"], ["lock"], ["show"]),
    "data": (["generate", "--count", "5"], ["generate", "--count", "many"], ["status"]),
    "skill": (["bim"], ["bin", "--port", "70000"], ["--help"]),  # `test_skill_server` ends one with 0
    "curriculum": (["progress", "bin"], ["check"], ["status"]),
    "sparring": (["--skill", "bim"], ["--count", "5"], ["--help"]),  # `test_sparring` holds a session
    "sparring-check": (["{file}"], [], ["--check-all"]),
    "eval": (["--checkpoint", "77", "--skill", "bin"], ["--once", "--limit", "0"], ["--status"]),
    "baseline": (["--tag", "base_x", "--api-url", "http://127.0.0.1:1"], ["--samples", "0"], ["--help"]),  # `test_run_transfer_baseline`
    "baseline-local": (
        ["--model-path", "{file}/none", "--tag", "base_x"], ["--model-path", "modelwright/tiny-0.4m", "--batch", "0"], ["--help"],
    ),
    "analytics": (["overview", "--campaign", "tiny/campaign-077"], ["all", "--limit", "3"], []),
    "ledger": (["show", "77"], ["show", "seven"], ["list"]),
    "incidents": (["set", "7", "resolved"], ["set", "7", "forgotten"], ["list"]),
    "retention": (["--campaign", "tiny", "campaign-077"], ["--cap-gb", "-1"], ["--dry-run"]),
    "backups": (["restore"], ["restore", "a", "b"], ["make"]),
    "campaign-run": (["cancel", "77"], ["cancel"], ["list"]),
    "train-4b": (
        ["--hero", "nobody", "--data", "{rows}", "--output", "{file}/o"], ["--data", "{rows}"], ["--help"],
    ),  # `test_train_4b_full` trains
    "validate": (["{file}/none", "--schema", "chat_sft_v1"], ["{file}", "--level", "deepest"], ["{rows}", "--schema", "chat_sft_v1"]),
}  # fmt: skip
"""Command → what it refuses (1), what is wrong (2), what it does (0). {file}: a file without rows. {rows}: sound rows."""
MEANT = {"refused": 1, "usage": 2, "done": 0}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    base = tmp_path_factory.mktemp("codes")
    make_house(base / "house")
    (base / "text").write_text("no row\n")
    return {"house": str(base / "house"), "file": str(base / "text"), "rows": str(write_rows(base / "rows.jsonl"))}


def code_of(work: Callable[[], object]) -> object:
    try:
        return work()
    except SystemExit as end:
        return end.code


def as_front(name: str, arguments: list[str], _: pytest.MonkeyPatch) -> object:
    """`guild <name> …`"""
    return code_of(lambda: cli.main([name, *arguments]))


def as_module(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """`python -m <module> …`, in this process."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    return code_of(lambda: runpy.run_module(cli.COMMANDS[name][0], run_name="__main__"))


def test_every_command_is_looked_at() -> None:
    assert set(CASES) == set(cli.COMMANDS)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
@pytest.mark.parametrize("way", [as_front, as_module], ids=["guild", "module"])
@pytest.mark.parametrize("meant", MEANT)
@pytest.mark.parametrize("name", CASES)
def test_refused_is_1_wrong_arguments_are_2_and_done_is_0(
    name: str,
    meant: str,
    way: Callable[..., object],
    words: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(VARIABLE, words["house"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = [word.format(**words) for word in CASES[name][list(MEANT).index(meant)]]
    code = way(name, arguments, monkeypatch)
    told = capsys.readouterr()
    assert (code or 0) == MEANT[meant], (arguments, told)
    why = told.err + (told.out if name == "validate" else "")  # its verdict is its answer
    assert "Traceback" not in told.err and bool(why.strip()) is (meant != "done" or name == "validate"), told


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelwrightError("no"), 1),
        (LoadError("no"), 1),  # 5 in other rooms
        (DamagedFileError("x", "y", "z"), 1),
        (UsageError("no"), 2),
        (ConfigError([Fault("a", "b", "c")]), 2),
        (ModuleNotFoundError("no", name="torch.nn"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_what_ends_a_command_decides_its_code(error: BaseException, code: int) -> None:
    def failing() -> int:
        raise error

    assert answered(failing) == code


def test_a_defect_keeps_its_traceback() -> None:
    def defect() -> int:
        return importlib.import_module("guild.no_such_module")  # type: ignore[return-value]

    with pytest.raises(ModuleNotFoundError):
        answered(defect)


def test_a_daemon_that_is_refused_its_settings_ends_with_1_as_a_process(tmp_path: Path) -> None:
    places = make_house(tmp_path / "house")
    write_json(places.config_file, {"schema_version": 1, "model_name": "tiny", "poll_interval": -3})
    for front in (["-m", "guild.cli", "daemon"], ["-m", "guild.training_daemon"]):
        done = subprocess.run(
            [sys.executable, *front], env={**os.environ, VARIABLE: str(places.base)}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and "poll_interval" in done.stderr and "Traceback" not in done.stderr, done
    assert not places.daemon_pid.exists()
