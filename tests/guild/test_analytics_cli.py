"""`guild analytics` as a user runs it. (specs/guild.md 2.9)"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from guild.analytics.reports import REPORTS
from guild.analytics_cli import HELP_PAGES, main
from guild.places import Places
from guild.records.database import open_guild
from guild.records.evaluations import store_evaluation
from helpers.guild_analytics import HERO, NAME, evaluation, house, layered, save_weights


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.setenv("TRAINING_BASE_DIR", str(tmp_path))
    return house(tmp_path)[0]


def asked(places: Places, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "guild.analytics_cli", "--base-dir", str(places.base), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


def test_without_a_name_the_reports_are_listed(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0].replace("-", "_") for line in shown] == list(REPORTS)


def test_a_report_is_printed_for_people_and_as_json(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    with open_guild(places) as db:
        store_evaluation(db, evaluation(100, 15))
    assert main(["automated-testing"]) == 0
    shown = capsys.readouterr().out
    assert "Total tests: 20" in shown and "Pass rate: 0.75" in shown and "level 1: accuracy 0.75" in shown
    assert main(["automated_testing", "--json", "--campaign", f"{HERO}/{NAME}"]) == 0
    assert json.loads(capsys.readouterr().out)["pass_rate"] == 0.75


def test_what_nobody_measured_is_said_in_words(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["confidence-calibration"]) == 0
    shown = capsys.readouterr().out
    assert "Status: no data" in shown and "Ece: not known" in shown


def test_all_makes_every_document(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reports"] == dict.fromkeys(REPORTS, "no data")


def test_drift_of_named_folders(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    base = save_weights(places.base / "base", layered(4))
    now = save_weights(places.base / "checkpoint-7", layered(4, scale={0: 2.0}))
    assert main(["layer-drift", "--base", str(base), "--checkpoint", str(now)]) == 0
    assert "Pattern: bottom_heavy" in capsys.readouterr().out


def test_refusals_are_sentences_and_exit_1(places: Places) -> None:
    unknown = asked(places, "weather")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("report: found 'weather'; allowed: layer_drift, parameter_stability")
    foreign = asked(places, "cycles", "--campaign", f"{HERO}/campaign-009")
    assert foreign.returncode == 1 and "campaign-009" in foreign.stderr and "Traceback" not in foreign.stderr


def test_wrong_options_exit_2(places: Places) -> None:
    assert asked(places, "--what").returncode == 2
    assert asked(places, "all", "--limit", "3").returncode == 2
    assert asked(places, "cycles", "--limit", "3").returncode == 2


def test_one_failing_report_does_not_keep_the_others_from_being_made(places: Places) -> None:
    (places.campaigns / HERO / NAME / "status" / "open_impacts").mkdir()
    (places.campaigns / HERO / NAME / "status" / "open_impacts" / "000001.json").write_text("{")
    told = asked(places, "all", "--json")
    assert told.returncode == 1 and "data_file_impact: " in told.stderr
    states = json.loads(told.stdout)["reports"]
    assert states["data_file_impact"] == "failed" and states["overview"] == "no data"


@pytest.mark.parametrize("page", HELP_PAGES)
def test_help_has_examples_and_exit_codes_and_loads_nothing_heavy(page: tuple[str, ...]) -> None:
    script = (
        "import sys\ntry:\n    from guild.analytics_cli import main\n    main([*sys.argv[1:], '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'numpy', 'apsw'} & set(sys.modules)\nassert not heavy, heavy"
    )
    shown = subprocess.run([sys.executable, "-c", script, *page], capture_output=True, text=True, check=False, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert "examples:" in shown.stdout and "exit codes:" in shown.stdout
