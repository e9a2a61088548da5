"""The transfer baseline commands, over a real server of the tiny model and in process. (specs/guild.md 3.7, 4.7; acceptance item 46)"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from guild import run_transfer_baseline, run_transfer_baseline_local
from guild.errors import RefusedError, UnknownProfileError
from guild.evaluation.api import ApiError
from guild.evaluation.comparison import skill_metrics
from guild.evaluation.sets import make_sets
from guild.evaluation.transfer import UnfinishedError
from guild.places import Places
from helpers.guild_evaluation import Chat, chat_server, said
from helpers.served import served
from modelwright.errors import UsageError
from modelwright.files import read_json

TINY = "modelwright/tiny-0.4m"
KEYS = ("INFERENCE_READ_KEY", "INFERENCE_ADMIN_KEY")


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    places = Places(tmp_path)
    make_sets(places, only=["primitives", "benchmarks"])
    for name in ("primitives", "benchmarks"):  # two kinds of each are enough here
        folders = sorted(path for path in (places.validation_data / name).iterdir() if path.is_dir())
        for folder in folders[2:]:
            for file in folder.iterdir():
                file.unlink()
    return places


def _api(places: Places, *words: str) -> int:
    return run_transfer_baseline.main(["--base-dir", str(places.base), *words])


def _local(places: Places, *words: str) -> int:
    return run_transfer_baseline_local.main(["--base-dir", str(places.base), "--model-path", TINY, *words])


def test_item_46_both_modes_over_a_real_server_and_in_process(house: Places, capsys: pytest.CaptureFixture[str]) -> None:
    with served(TINY) as server:
        assert _api(house, "--api-url", server.url, "--tag", "base_tiny", "--samples", "2") == 0
    assert "The baseline base_tiny is complete" in capsys.readouterr().out
    assert _local(house, "--tag", "trained_9", "--samples", "2") == 0
    one, other = (read_json(house.baselines / f"baseline_{tag}.json") for tag in ("base_tiny", "trained_9"))
    assert one["settings"]["model"] == TINY
    for found in (one, other):
        assert (found["complete"], found["samples_per_skill"], len(found["skills"])) == (True, 2, 4)
        assert found["summary"]["primitives"]["count"] == found["summary"]["babi"]["count"] == 2
        assert all(entry["total"] == 2 and 0 <= entry["accuracy"] <= 1 and entry["avg_time"] > 0 for entry in found["skills"].values())
    said_of = [{name: [error["got"] for error in entry["errors"]] for name, entry in found["skills"].items()} for found in (one, other)]
    assert said_of[0] == said_of[1]  # the same model says the same, whichever way it is asked
    metrics = skill_metrics(house)
    assert all(entry["improvement"] == 0.0 for entry in metrics["skills"].values())
    assert metrics["warnings"] == []


def test_an_unreachable_api_writes_nothing(house: Places) -> None:
    path = house.baselines / "baseline_base_x.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"tag": "base_x", "skills": {}}')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ApiError, match="does not answer") as raised:
            _api(house, "--api-url", f"http://127.0.0.1:{taken.getsockname()[1]}", "--tag", "base_x")
    assert raised.value.exit_code == 1
    assert path.read_text() == '{"tag": "base_x", "skills": {}}'
    assert list(house.baselines.iterdir()) == [path]


def test_the_key_of_the_environment_is_sent_and_the_tag_follows_the_served_checkpoint(
    house: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [{"id": "hero", "path": "/models/checkpoint-1200-20260101-0900"}]
    with chat_server(Chat(lambda body: said("yes"), models=models, key="secret")) as chat:
        with pytest.raises(ApiError, match="401"):
            _api(house, "--api-url", chat.url)
        monkeypatch.setenv("INFERENCE_READ_KEY", "secret")
        assert _api(house, "--api-url", chat.url, "--samples", "3", "--primitives-only") == 0
        assert {body["model"] for body in chat.seen} == {"hero"}
        assert {body["messages"][0]["content"][:9] for body in chat.seen} == {"Today is "}
    found = read_json(house.baselines / "baseline_trained_1200.json")
    assert len(found["skills"]) == 2
    assert found["summary"]["babi"] == {"count": 0, "avg_accuracy": None}


def test_a_server_that_dies_on_the_way_leaves_a_partial_document_and_exit_1(house: Places) -> None:
    with chat_server(Chat(lambda body: said("yes") if len(chat.seen) <= 3 else (500, {}, {}))) as chat:
        with pytest.raises(UnfinishedError, match="1 of 4 kinds are saved") as raised:
            _api(house, "--api-url", chat.url, "--tag", "base_x", "--samples", "3")
        assert raised.value.exit_code == 1
        found = read_json(house.baselines / "baseline_base_x.json")
        assert (found["complete"], list(found["skills"])) == (False, ["addition"])


def test_flags(house: Places) -> None:
    with pytest.raises(SystemExit) as raised:
        _api(house, "--mode", "some")
    assert raised.value.code == 2
    for words, told in (
        (["--samples", "0"], "--samples"),
        (["--mode", "primitives", "--babi-only"], "one of them"),
        (["--parallel", "0"], "--parallel"),
        (["--api-url", "host:1"], "with http or https"),
    ):
        with pytest.raises(UsageError, match=told):
            _api(house, *words)
    for words, told in ((["--batch", "0"], "--batch"), (["--max-memory", "0"], "--max-memory"), ([], "--tag: found nothing")):
        with pytest.raises(UsageError, match=told):
            _local(house, *words)
    with pytest.raises(RefusedError, match="--max-memory"):
        _local(house, "--tag", "base_x", "--max-memory", "0.0001")
    with pytest.raises(UnknownProfileError):
        _local(house, "--tag", "base_x", "--profile", "nobody")
