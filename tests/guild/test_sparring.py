"""The command `guild sparring` as a user runs it. (specs/guild.md 3.8, 6.4, acceptance item 34)"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from guild.places import Places
from guild.queue.status import list_queue
from guild.skills.registry import load_skill
from guild.sparring import build_parser, main
from helpers.guild_house import command, make_house
from helpers.guild_sparring import chat_server, golden

ASK = ("--skill", "binary", "--level", "3", "--count", "10", "--seed", "7")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return make_house(tmp_path / "guild", overrides={"profile": "none"})


def answering(wrong: int):  # type: ignore[no-untyped-def]
    return golden(load_skill("bin").generate(3, 10, 7), wrong)


def test_item_34_as_a_process_twelve_rows_wait_in_high(places: Places) -> None:
    with chat_server(answering(4)) as server:
        done = command(places, "guild.sparring", *ASK, "--inference-url", server.url)
    assert done.returncode == 0, done.stderr
    waiting = [row.name for row in list_queue(places, "high")]
    assert len(waiting) == 1 and waiting[0].startswith("sparring_bin_L3_12_")
    for line in ("Skill:      bin level 3", "6 right, 4 wrong, 0 without a result (60.0%)", "Rows:       12", "Queued:     high"):
        assert line in done.stdout
    checked = command(places, "guild.sparring_validator", "--check-all", "--strict")
    assert checked.returncode == 0 and checked.stdout.count("PASSED") == 1  # the copy in the queue is the same file


def test_item_34_a_dead_endpoint_is_exit_1_and_0_rows(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    with chat_server(answering(4)) as server:
        url = server.url
    assert main([*ASK, "--base-dir", str(places.base), "--inference-url", url]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("0 rows were made.\n") and url in err and "Traceback" not in err
    assert list_queue(places) == []


def test_no_queue_saves_and_queues_nothing(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    with chat_server(answering(1)) as server:
        assert main([*ASK, "--base-dir", str(places.base), "--inference-url", server.url, "--no-queue", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["queued"], told["schema_version"]) == (3, None, 1)
    assert Path(told["file"]).parent == places.sparring_data and list_queue(places) == []


def test_the_priority_is_chosen(places: Places) -> None:
    with chat_server(answering(1)) as server:
        assert main([*ASK, "--base-dir", str(places.base), "--inference-url", server.url, "--priority", "normal"]) == 0
    assert len(list_queue(places, "normal")) == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--skill", "logic_weaving"), 1, "'logic_weaving'"),
        (("--skill", "bin", "--count", "0"), 2, "count"),
        (("--skill", "bin", "--inference-url", "box:8765"), 2, "a server's address with http or https"),
    ],
)
def test_faults_are_sentences(places: Places, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str) -> None:
    assert main([*words, "--base-dir", str(places.base)]) == code
    assert said in capsys.readouterr().err


def test_help_names_every_flag_and_is_light() -> None:
    text = build_parser().format_help()
    for flag in (
        "--skill",
        "--level",
        "--count",
        "--checkpoint",
        "--no-queue",
        "--priority",
        "--base-dir",
        "--inference-url",
        "exit codes",
    ):
        assert flag in text
    code = "import sys; import guild.sparring, guild.sparring_validator; print(*{'pydantic', 'apsw', 'orjson', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
