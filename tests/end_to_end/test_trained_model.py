"""The demo in small, on the trained tiny model: a real stretch with real text through the ordinary command."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelwright.files import read_json
from scaler_wizard.demo import Recipe, ask_exported_model, run_demo
from scaler_wizard.report import load_results

SMALL = Recipe(steps=(1, 2, 4), batch_tokens=4096, recall_rows=12, source_rows=40, probe_samples=11)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a folder") / "demo ü"
    assert run_demo(folder, SMALL) == 0
    return folder


def test_passkey_at_twice_the_window_rises(demo: Path) -> None:
    """Acceptance 33, at 2L and at 4L: the untouched base is lost there, the stretched model is not."""
    results = load_results(demo / "run")
    before, after = (results[state]["scores"]["passkey"] for state in ("preflight", "final"))
    assert before["512"] == 1.0
    assert after["1024"] > before["1024"]
    assert after["2048"] >= before["2048"] + 0.5


def test_perplexity_beyond_the_window_falls_and_short_context_is_kept(demo: Path) -> None:
    results = load_results(demo / "run")
    before, after = (results[state]["perplexity"] for state in ("preflight", "final"))
    assert after["2048"] < before["2048"]
    assert results["short_context"]["perplexity_after"] == after["512"]


def test_plain_transformers_answers_a_passkey_question(demo: Path) -> None:
    words = ask_exported_model(demo / "run" / "model", 2048)
    hidden = words.rsplit("hidden key: ", 1)[1].rstrip(")")
    assert hidden in words.split("answer:")[1].split("(hidden")[0]


def test_the_report_stands_alone(demo: Path) -> None:
    page = (demo / "run" / "report.html").read_text(encoding="utf-8")
    assert "512 → 2048 tokens" in page
    assert "http://" not in page and "https://" not in page and "<script" not in page


def test_a_finished_demo_is_shown_again_and_not_run_again(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = read_json(demo / "run" / "run.json")["run_id"]
    assert run_demo(demo, SMALL) == 0
    assert "finished demo" in capsys.readouterr().out
    assert read_json(demo / "run" / "run.json")["run_id"] == run_id
