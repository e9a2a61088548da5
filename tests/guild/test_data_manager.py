"""`python -m guild.data_manager` as a process. (specs/guild.md 3.5; items 26, 27)"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from guild import data_manager
from guild.places import Places
from helpers.guild_curriculum import make_curriculum_house
from helpers.guild_house import command, put
from helpers.guild_skill_server import skill_server
from modelwright.files import write_json
from modelwright.identity import current_identity

MODULE = "guild.data_manager"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return make_curriculum_house(tmp_path / "house")


def queued(places: Places) -> list[str]:
    return sorted(path.name for path in places.queue.glob("*/*.jsonl"))


def test_item_26_generate_twice_with_a_seed_through_a_real_server(tmp_path: Path) -> None:
    with skill_server("bin", base=tmp_path) as server:
        places = make_curriculum_house(tmp_path / "house", api=server.port)
        for _ in range(2):
            done = command(places, MODULE, "generate", "--force", "--count", "10", "--seed", "1")
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(
                "APPROVED: 10 rows of bin level 1 (seed 1, quality 100%) wait in the queue as train_bin_level1_10_"
            )
        status = command(places, MODULE, "status")
    first, second = queued(places)
    assert (places.level("normal") / first).read_bytes() == (places.level("normal") / second).read_bytes()
    assert (places.level("normal") / f"{first}.meta.json").is_file()
    assert f"* bin      API online at http://127.0.0.1:{server.port}" in status.stdout
    assert "  sy       API offline" in status.stdout and "Level 1/30 (" in status.stdout
    assert "Rows: generated 20, approved 20, rejected 0" in status.stdout and "Approval rate: 100.0%" in status.stdout
    assert "Queue: 2 waiting, 0 being trained" in status.stdout


def test_item_27_what_keeps_it_from_running_is_said_with_exit_code_1(places: Places) -> None:
    assert command(places, MODULE, "generate", "--count", "20").returncode == 0
    again = command(places, MODULE, "generate", "--count", "20")
    assert again.returncode == 1 and again.stderr.startswith("cooldown: found ") and "allowed: 180 s" in again.stderr
    assert command(places, MODULE, "generate", "--count", "20", "--force").returncode == 0
    assert len(queued(places)) == 2


def test_a_dead_api_is_exit_code_1_even_by_force(tmp_path: Path) -> None:
    with skill_server("bin", base=tmp_path) as server:
        places = make_curriculum_house(tmp_path / "house", api=server.port)
    done = command(places, MODULE, "generate", "--force", "--count", "5")
    assert done.returncode == 1 and "does not answer" in done.stderr and "Traceback" not in done.stderr
    assert queued(places) == []


def test_wrong_words_are_named(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("--base-dir", str(places.base))
    assert data_manager.main([*base, "generate", "--force", "--count", "0"]) == 2
    assert "count" in capsys.readouterr().err
    assert data_manager.main([*base, "generate", "--force", "--count", "5", "--skill", "bim"]) == 1
    assert "Did you mean 'bin'?" in capsys.readouterr().err
    assert data_manager.main([*base, "generate", "--force", "--count", "5", "--level", "31"]) == 1
    assert "level: found 31" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        data_manager.main([*base, "generate", "--priority", "urgent"])
    assert caught.value.code == 2


def test_settings_from_another_file(places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.json"
    write_json(other, {"auto_generate": {"enabled": False}})
    assert data_manager.main(["--base-dir", str(places.base), "--config", str(other), "generate", "--force", "--count", "5"]) == 1
    assert "auto_generate.enabled: found false" in capsys.readouterr().err
    write_json(other, {"auto_generate": {"enabled": True, "host": "h", "port": 1, "count": 7, "priority": "high"}})
    assert data_manager.main(["--base-dir", str(places.base), "--config", str(other), "--json", "generate"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["schema_version"], made["rows"], made["outcome"]) == (1, 7, "APPROVED")
    assert (places.level("high") / made["file"]).is_file()


def test_settings_from_another_file_are_refused_while_a_daemon_generates_with_its_own(
    places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.json"
    settings = {"enabled": True, "host": "127.0.0.1", "port": 8090, "count": 21, "priority": "low"}
    write_json(other, {"auto_generate": settings})
    words = ["--base-dir", str(places.base), "--config", str(other), "generate", "--force"]
    write_json(places.daemon_pid, current_identity().as_dict())  # of a process that lives: this one
    assert data_manager.main(words) == 1
    assert f"--config: found {other} while a daemon lives" in capsys.readouterr().err and queued(places) == []
    places.daemon_pid.unlink()
    assert data_manager.main(words) == 0
    assert [name.split("_")[3] for name in queued(places)] == ["21"]


def test_stats_and_status_are_json(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("--base-dir", str(places.base))
    assert data_manager.main([*base, "stats"]) == 0
    empty = json.loads(capsys.readouterr().out)
    assert (empty["generations"], empty["approval_rate"], empty["mean_quality"]) == (0, None, None)
    assert data_manager.main([*base, "status", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["skills"]["bin"]["api"] == "online" and document["skills"]["sy"]["api"] == "offline"
    assert data_manager.main([*base, "status"]) == 0
    assert "  bin      API online in this process\n" in capsys.readouterr().out


def test_help_needs_nothing_heavy() -> None:
    probe = (
        "import sys; from guild import data_manager, curriculum_manager as c; data_manager.build_parser(); c.build_parser(); "
        "print([m for m in ('torch','transformers','pydantic','apsw','yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_that_is_trained_keeps_it_waiting_even_by_force(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    from guild.queue.inbox import process_inbox
    from guild.records import jobs
    from guild.records.database import open_guild
    from modelwright.identity import current_identity

    put(places, "mine.jsonl", 3)
    with open_guild(places) as db:
        process_inbox(db, places, allow_default=True)
        assert jobs.claim(db, current_identity(), kinds=("train_file",)) is not None
    assert data_manager.main(["--base-dir", str(places.base), "generate", "--force", "--count", "5"]) == 1
    assert "1 file is being trained" in capsys.readouterr().err
