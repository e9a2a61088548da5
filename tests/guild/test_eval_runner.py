"""`python -m guild.eval_runner`: its verbs, words and exit codes. (specs/guild.md 2.1.9)"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guild.errors import UnknownCheckpointError
from guild.eval_runner import main
from guild.places import Places
from guild.records import jobs
from guild.records.database import open_guild
from guild.records.evaluations import evaluations_of
from guild.records.passives import passives_of
from helpers.guild_evaluation import CAMPAIGN, add_checkpoint
from helpers.guild_house import make_house
from modelwright.clock import ManualClock
from modelwright.errors import RunLockedError, UsageError
from modelwright.files import read_json, write_json
from modelwright.identity import current_identity
from modelwright.lock import WriterLock

SMALL_BIN = """\
schema_version: 1
id: bin
name: Binary arithmetic
max_level: 30
options: {forms: [brief], operations: [increment, decrement], tasks: [], auxiliary_share: 0, symbol_share: 0, hint_share: 0, chains: false}
"""


@pytest.fixture
def house(tmp_path: Path) -> Places:
    places = make_house(tmp_path)
    (places.skills / "bin.yaml").write_text(SMALL_BIN)
    (places.skills / "sy.yaml").unlink()
    return places


def _ask(places: Places, *words: str) -> int:
    return main(["--base-dir", str(places.base), *words])


def test_help_is_quick_and_loads_no_training_library() -> None:
    code = (
        "import sys\nfrom guild.eval_runner import build_parser\nfrom guild.run_transfer_baseline import build_parser as b\n"
        "from guild.run_transfer_baseline_local import build_parser as c\n[each().format_help() for each in (build_parser, b, c)]\n"
        "print(*sorted({'torch', 'transformers', 'numpy', 'pydantic', 'apsw'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
    code = "import guild.evaluation.runner, guild.evaluation.transfer, sys\n"
    code += "print(*sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--once", "--skill", "bin"], "without --checkpoint"),
        (["--checkpoint", "5"], "neither --skill nor --full"),
        (["--checkpoint", "5", "--full", "--level", "2"], "with --skill"),
        (["--checkpoint", "5", "--skill", "bin", "--level", "0"], "found 0"),
        (["--status", "--type", "quick"], "--type"),
        (["--daemon", "--interval", "0"], "--interval"),
        (["--daemon", "--limit", "3"], "--limit"),
        (["--once", "--device", "tpu"], "--device"),
        (["--once", "--idle-exit", "5"], "--idle-exit"),
    ],
)
def test_misfitting_flags_are_refused(house: Places, words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        _ask(house, *words)


def test_a_checkpoint_is_evaluated_now_and_shown(house: Places, capsys: pytest.CaptureFixture[str]) -> None:
    with open_guild(house) as db:
        add_checkpoint(db, house, 10)
    assert _ask(house, "--status") == 0
    assert "0 wait, 0 run, 0 failed" in capsys.readouterr().out
    with pytest.raises(UnknownCheckpointError, match=r"found '11'; allowed in the ledger of tiny/campaign-001: 10, 0"):
        _ask(house, "--checkpoint", "11", "--skill", "bin")
    assert _ask(house, "--checkpoint", "10", "--skill", "binary", "--level", "6") == 0
    out = capsys.readouterr().out
    assert "step 10: bin level 6: 0 of 20 right" in out
    assert "1 evaluations are stored, 0 failed, 0 wait." in out
    assert _ask(house, "--status", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["skill"], one["level"], one["total"]) for one in told["results"]] == [("bin", 6, 20)]
    assert told["evaluated"][0]["checkpoints"] == 1


def test_backfill_queues_and_once_carries_out_by_kind(house: Places, capsys: pytest.CaptureFixture[str]) -> None:
    with open_guild(house) as db:
        add_checkpoint(db, house, 10)
        assert _ask(house, "--backfill", "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["campaign"], told["queued"], told["waiting_already"]) == ("tiny/campaign-001", 5, 0)
        assert _ask(house, "--backfill") == 0
        assert "0 evaluations are queued, 5 waited already." in capsys.readouterr().out
        assert _ask(house, "--once", "--type", "full") == 0
        assert "Nothing waits" in capsys.readouterr().out
        assert _ask(house, "--once", "--limit", "2", "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert ([one["state"] for one in told["outcomes"]], told["left"]) == (["stored", "stored"], 3)
        assert len(evaluations_of(db, CAMPAIGN)) == 1
        assert len(passives_of(db, CAMPAIGN)) == 1


def test_the_base_model_is_step_0(house: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert _ask(house, "--checkpoint", "0", "--skill", "bin") == 0
    with open_guild(house) as db:
        (found,) = evaluations_of(db, CAMPAIGN)
        assert (found.checkpoint_step, found.model_extra["checkpoint"] if found.model_extra else "") == (0, "base")


def test_a_failure_is_exit_1_with_its_sentence(house: Places, capsys: pytest.CaptureFixture[str]) -> None:
    with open_guild(house) as db:
        folder = add_checkpoint(db, house, 10)
        (folder / "tokenizer.json").write_text("{")
        (folder / "tokenizer_config.json").unlink()
        assert _ask(house, "--checkpoint", "10", "--skill", "bin") == 1
        assert "1 failed" in capsys.readouterr().out
        (job,) = jobs.list_jobs(db, kinds=("eval",)).jobs
        assert job.state in ("rejected", "queued")
        assert job.error


def test_what_has_to_wait_for_a_device_is_said_with_1(house: Places, capsys: pytest.CaptureFixture[str]) -> None:
    content = read_json(house.hosts)
    content["hosts"]["local"]["devices"] = {"trainer": "cuda:0", "inference": "cuda:0"}
    write_json(house.hosts, content)
    with open_guild(house) as db:
        add_checkpoint(db, house, 10)
        jobs.enqueue(db, jobs.NewJob("train_file", {"file": "a.jsonl"}))
        assert jobs.claim(db, current_identity(), kinds=("train_file",)) is not None
        for words in (("--checkpoint", "10", "--skill", "bin"), ("--once",)):
            assert _ask(house, *words) == 1
            told = capsys.readouterr()
            assert "A file is being trained on cuda:0" in told.err and "stored" not in told.out
        assert evaluations_of(db, CAMPAIGN) == []


def test_a_daemon_works_off_what_waits_and_ends_when_nothing_did_for_a_while(house: Places) -> None:
    clock = ManualClock()
    with open_guild(house) as db:
        add_checkpoint(db, house, 10)
        assert _ask(house, "--backfill") == 0
        words = ["--base-dir", str(house.base), "--daemon", "--interval", "5", "--idle-exit", "30"]
        assert main(words, clock=clock) == 0
        assert {job.state for job in jobs.list_jobs(db, kinds=("eval",)).jobs} == {"completed"}
        assert 30 <= clock.monotonic() <= 40


class Sleeping(ManualClock):
    """Does something at each of the first sleeps."""

    def __init__(self, *works: Callable[[], object]) -> None:
        super().__init__()
        self.works = list(works)

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.works:
            self.works.pop(0)()


def test_a_daemon_loads_a_checkpoint_once_for_rounds_near_each_other(house: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    from guild.evaluation.due import Wanted, enqueue
    from modelwright import loading

    loaded: list[str] = []

    def counting(source: Any, **more: Any) -> Any:
        loaded.append(str(source.path))
        return real(source, **more)

    real = loading.load_model
    monkeypatch.setattr(loading, "load_model", counting)
    with open_guild(house) as db:
        add_checkpoint(db, house, 10)

        def ask(level: int) -> None:
            enqueue(db, house, CAMPAIGN, [Wanted(10, "c", "skill", "bin", "quick", 10, level, problems=2)])

        ask(1)
        clock = Sleeping(lambda: ask(2), *[lambda: None] * 150, lambda: ask(3))  # the third one comes when the model was given back
        assert main(["--base-dir", str(house.base), "--daemon", "--interval", "5", "--idle-exit", "90"], clock=clock) == 0
        assert [one.level for one in evaluations_of(db, CAMPAIGN)] == [1, 2, 3]
    assert len(loaded) == 2


def test_one_daemon_alone(house: Places) -> None:
    folder = house.pids / "eval_runner"
    folder.mkdir(parents=True)
    lock = WriterLock(folder)
    try:
        with pytest.raises(RunLockedError):
            _ask(house, "--daemon")
    finally:
        lock.release()
