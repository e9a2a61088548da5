"""One authority makes new rows: when, from where, into which file, exactly once. (items 26, 27, 28)"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from guild.campaigns.config_file import installation_config
from guild.curriculum import generate
from guild.curriculum.authority import AUTO_KEY, carry_out, generate_now, generation_round, request
from guild.curriculum.choosing import NoSourceError
from guild.curriculum.generate import PreconditionError
from guild.curriculum.progress import set_mastered
from guild.curriculum.quality import QualityProfile
from guild.curriculum.state import read_state
from guild.curriculum.totals import Totals, default_seed
from guild.places import Places
from guild.records import events, jobs
from guild.records.data_sidecars import read_data_sidecar
from guild.records.database import open_guild
from guild.skills.contract import held_out
from helpers.guild_curriculum import CAMPAIGN, SMALL, choose_preset, edit_skill, make_curriculum_house, set_port
from helpers.guild_house import until
from helpers.guild_records import in_processes, killed_at_line
from helpers.guild_skill_server import skill_server
from modelwright.clock import ManualClock
from modelwright.database import Database
from modelwright.errors import MissingFileError
from modelwright.files import read_json, write_json
from modelwright.identity import current_identity

TRACED = (*(f"curriculum/{name}.py" for name in ("generate", "files", "totals", "authority")), "queue/add.py")
START = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return make_curriculum_house(tmp_path / "house")


def now(db: Database, places: Places, clock: ManualClock, **asked: Any) -> Any:
    settings = installation_config(places).auto_generate
    return generate_now(db, places, {"count": 20, **asked}, settings=settings, clock=clock).generated


def files(places: Places) -> list[str]:
    return sorted(path.name for path in places.queue.glob("*/*.jsonl"))


def rows(places: Places, name: str) -> list[Any]:
    return [json.loads(line) for line in next(places.queue.glob(f"*/{name}")).read_text().splitlines()]


@contextmanager
def answering(answers: dict[str, Any]) -> Iterator[int]:
    """The port of a server with these answers by route."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.dumps(answers[self.path]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def test_item_26_the_same_seed_gives_identical_rows_and_a_signed_file_over_http(tmp_path: Path) -> None:
    with skill_server("bin", base=tmp_path) as server:
        places = make_curriculum_house(tmp_path / "house", api=server.port)
        with open_guild(places) as db:
            clock = ManualClock(START)
            first = now(db, places, clock, count=10, seed=1, force=True)
            second = now(db, places, clock, count=10, seed=1, force=True)  # in the same second: the next free name
            other = now(db, places, clock, count=10, seed=2, force=True)
    assert first.file == "train_bin_level1_10_20260101_120000.jsonl" and second.file == "train_bin_level1_10_20260101_120001.jsonl"
    assert rows(places, first.file) == rows(places, second.file) != rows(places, other.file)
    assert len(rows(places, first.file)) == 10
    row = rows(places, first.file)[0]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]  # training puts the dated base prompt before it
    wanted = {"source", "generator_id", "generator_version", "skill", "sample_id", "scenario", "tags", "rubric", "level", "bits"}
    assert wanted <= set(row["metadata"]) and row["metadata"]["bits"] == 2
    path = places.level("normal") / first.file
    sidecar = read_data_sidecar(path)
    assert sidecar is not None and path.with_name(f"{first.file}.meta.json").is_file()
    assert (sidecar.generator_id, sidecar.generator_version, sidecar.example_count) == ("bin_api", "1.0.0", 10)
    assert sidecar.params["seed"] == 1 and sidecar.validation_passed is True and "data_validator" in sidecar.validator_versions
    assert read_json(places.status / "data_lineage.json")["generators"]["bin_api@1.0.0"]["passed"] == 3
    assert not list(places.inbox.iterdir()) and not list((places.data_manager / "staged").iterdir())


def test_without_a_seed_every_generation_is_another_and_repeatable_elsewhere(places: Places, tmp_path: Path) -> None:
    elsewhere = make_curriculum_house(tmp_path / "elsewhere")
    clock = ManualClock(START)
    with open_guild(places) as db, open_guild(elsewhere) as other:
        made = [now(db, places, clock, force=True) for _ in range(2)]
        again = [now(other, elsewhere, clock, force=True) for _ in range(2)]
    assert [one.seed for one in made] == [one.seed for one in again] == [default_seed("bin", 1, 1), default_seed("bin", 1, 2)]
    assert rows(places, made[0].file) == rows(elsewhere, again[0].file) != rows(places, made[1].file)


def test_the_level_is_the_training_level_and_held_out_problems_stay_out(places: Places) -> None:
    set_mastered(places, "bin", 5, CAMPAIGN)
    with open_guild(places) as db:
        made = now(db, places, ManualClock(START), count=300)
    assert made.level == 6 and made.file.startswith("train_bin_level6_300_")
    from guild.skills.registry import load_skill

    skill = load_skill("bin")
    problems = {one.metadata["problem"] for one in skill.generate(6, 300, made.seed)}
    assert not any(held_out(problem) for problem in problems)
    asked = {row["messages"][0]["content"] for row in rows(places, made.file)}
    assert not asked & {one.user_prompt for one in skill.evaluation(6, 200)}
    assert read_state(places, CAMPAIGN).active_skill == "bin"
    with open_guild(places) as db:
        job = jobs.find_file(db, made.file)
    assert (job.payload["skill"], job.payload["level"], job.payload["rows"]) == ("bin", 6, 300)


def test_item_27_each_precondition_keeps_it_from_running(places: Places) -> None:
    clock = ManualClock(START)
    with open_guild(places) as db:
        assert now(db, places, clock).queued
        with pytest.raises(PreconditionError, match=r"cooldown: found 0 s since the last generation; allowed: 180 s"):
            now(db, places, clock)
        clock.advance(181)
        assert now(db, places, clock).queued  # one file waits: fewer than min_queue_depth
        clock.advance(181)
        with pytest.raises(PreconditionError, match=r"queue: found 2 waiting files"):
            now(db, places, clock)
        assert now(db, places, clock, force=True).queued
        held = jobs.claim(db, current_identity(), kinds=("train_file",), clock=clock)
        assert held is not None
        with pytest.raises(PreconditionError, match="1 file is being trained"):
            now(db, places, clock, force=True)
        assert generation_round(db, places, clock=clock) is None
    assert len(files(places)) == 3


def test_item_27_switched_off_or_without_an_api_nothing_is_generated_even_by_force(tmp_path: Path) -> None:
    with skill_server("bin", base=tmp_path) as server:
        port = server.port
    places = make_curriculum_house(tmp_path / "house", api=port)  # nobody listens there any more
    with open_guild(places) as db:
        with pytest.raises(NoSourceError, match="/health does not answer"):
            now(db, places, ManualClock(START), force=True)
        said: list[str] = []
        for _ in range(3):
            assert generation_round(db, places, say=said.append) is None
        assert len(said) == 1  # told once
        assert [one.type for one in events.read_after(db, families=("service",)).events] == ["service.skill_down"]
        edit_skill(places, "bin", api={"url": "local"})
        assert generation_round(db, places) is not None
        assert [one.type for one in events.read_after(db, families=("service",)).events] == ["service.skill_down", "service.skill_up"]
    off = make_curriculum_house(tmp_path / "off", enabled=False)
    with open_guild(off) as db:
        with pytest.raises(PreconditionError, match=r"auto_generate\.enabled: found false"):
            now(db, off, ManualClock(START), force=True)
        assert generation_round(db, off) is None
    assert files(places) and not files(off)


def test_item_25_without_a_registry_no_server_is_looked_for(tmp_path: Path) -> None:
    """The skill file has an address, and it is not used in the registry's place."""
    places = make_curriculum_house(tmp_path / "house", api=8123)
    places.hosts.unlink()
    with open_guild(places) as db, pytest.raises(MissingFileError, match="no address is built in"):
        now(db, places, ManualClock(START), count=5, force=True)
    edit_skill(places, "bin", api={"url": "local"})
    with open_guild(places) as db:
        assert now(db, places, ManualClock(START), count=5, force=True).rows == 5


def test_another_skills_server_on_the_port_is_refused(tmp_path: Path) -> None:
    with skill_server("bin", base=tmp_path) as server:
        places = make_curriculum_house(tmp_path / "house", preset="sy_only")
        set_port(places, "skill_sy", server.port)
        with open_guild(places) as db, pytest.raises(NoSourceError, match="found the server of the skill 'bin'; allowed: that of 'sy'"):
            now(db, places, ManualClock(START), force=True)


def test_item_27_many_askers_at_once_make_one_file(places: Places) -> None:
    def ask() -> None:
        with open_guild(places) as db:
            generation_round(db, places)

    def command() -> None:
        settings = installation_config(places).auto_generate
        with open_guild(places) as db:
            try:
                generate_now(db, places, {"count": 20}, settings=settings)
            except PreconditionError:
                pass  # another was first

    in_processes([ask, command, ask, command, ask])
    assert len(files(places)) == 1
    assert Totals.read(places).as_dict()["generations"] == 1


def test_a_request_that_waits_is_not_doubled_and_a_round_carries_it_out(places: Places) -> None:
    with open_guild(places) as db:
        first = request(db, count=30, seed=4, force=True)
        assert first.created and not request(db, count=30, seed=4, force=True).created
        carried = generation_round(db, places)
        assert carried is not None and carried.job.id == first.job.id and carried.job.state == "completed"
        assert carried.job.result is not None and carried.job.result["rows"] == 30
        assert carry_out(db, places) is None


def test_the_round_asks_once_when_the_queue_runs_low(places: Places) -> None:
    clock = ManualClock(START)
    with open_guild(places) as db:
        made = generation_round(db, places, clock=clock)
        assert made is not None and made.job.once_key == AUTO_KEY and made.generated is not None and made.generated.rows == 40
        assert generation_round(db, places, clock=clock) is None
        clock.advance(181)
        assert generation_round(db, places, clock=clock) is not None
        clock.advance(181)
        assert generation_round(db, places, clock=clock) is None  # two wait
        assert len(jobs.list_jobs(db, kinds=("data_gen",)).jobs) == 2


def test_item_28_rejected_rows_never_reach_the_queue(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    strict = QualityProfile("strict", 10_000, 20_000, 0.0, diversity=True)
    monkeypatch.setattr(generate, "quality_profile", lambda skill, stated=None: strict)
    monkeypatch.setattr("guild.curriculum.quality.ISSUE_SHARE", 0.0)  # with it content fails too, and no row may be: three checks
    monkeypatch.setattr("guild.curriculum.quality.DISTINCT_SHARE", 1.1)
    with open_guild(places) as db:
        made = now(db, places, ManualClock(START))
        assert (made.outcome, made.job) == ("REJECTED", None)
        assert [one.type for one in events.read_after(db, families=("data",)).events] == ["data.rejected"]
    assert files(places) == [] and (places.rejected / made.file).is_file() and (places.rejected / f"{made.file}.meta.json").is_file()
    report = read_json(next(places.reports.glob("quality_report_*.json")))
    assert report["outcome"] == "REJECTED" and not report["checks"]["length"]["passed"]
    totals = Totals.read(places).as_dict()
    assert (totals["rows_rejected"], totals["rows_approved"], totals["approval_rate"]) == (20, 0, 0.0)


def test_item_28_a_conditional_verdict_is_queued_with_a_warning(places: Places) -> None:
    edit_skill(places, "bin", quality={"least": 500, "most": 1000})
    with open_guild(places) as db:
        made = now(db, places, ManualClock(START))
        assert made.outcome == "CONDITIONAL" and made.queued and made.score == 0.75
        assert made.warnings[0].startswith("quality check length:")
        (told,) = events.read_after(db, families=("data",)).events
        assert (told.type, told.severity) == ("data.generated", "warning")
    assert files(places) == [made.file]


def test_a_dead_server_does_not_starve_the_others(tmp_path: Path) -> None:
    places = make_curriculum_house(tmp_path / "house", preset="balanced")
    with open_guild(places) as db:
        clock = ManualClock(START)
        set_port(places, "skill_sy", 9)
        assert [now(db, places, clock, force=True).skill for _ in range(2)] == ["bin", "bin"]
        edit_skill(places, "sy", api={"url": "local"})
        assert [now(db, places, clock, force=True, count=5).skill for _ in range(3)] == ["sy", "sy", "bin"]
        choose_preset(places, "sy_only")
        with pytest.raises(Exception, match="level: found 99"):
            now(db, places, clock, force=True, level=99)


def test_killed_anywhere_the_same_request_makes_its_rows_once(places: Places) -> None:
    number, died, seed = 0, True, 0
    while died:
        number, seed = number + 19, seed + 1
        assert number < 3000
        with open_guild(places) as db:
            asked = request(db, count=6, seed=seed, force=True)

        def work() -> None:
            with open_guild(places) as db:
                generation_round(db, places)

        died = killed_at_line(number, TRACED, work)
        with open_guild(places) as db:
            for _ in range(3):
                generation_round(db, places)
            job = jobs.get(db, asked.job.id)
            assert job.state == "completed" and job.result is not None
            mine = [one for one in files(places) if read_data_sidecar(next(places.queue.glob(f"*/{one}"))).params["seed"] == seed]  # type: ignore[union-attr]
            assert mine == [job.result["file"]], (number, mine)
            assert jobs.find_file(db, mine[0]).state == "queued"
            jobs.cancel(db, jobs.find_file(db, mine[0]).id)
    assert seed > 10
    assert Totals.read(places).as_dict()["generations"] == seed
    assert not list(places.inbox.iterdir())


def test_with_a_living_daemon_the_command_only_asks_and_waits(places: Places) -> None:
    write_json(places.daemon_pid, current_identity().as_dict())
    words = [sys.executable, "-m", "guild.data_manager", "--base-dir", str(places.base), "generate", "--force", "--count", "8", "--json"]
    asker = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with open_guild(places) as db:
        carried = until(lambda: generation_round(db, places) if jobs.list_jobs(db, kinds=("data_gen",)).jobs else None, "the request")
        out, errors = asker.communicate(timeout=60)
        assert asker.returncode == 0, errors
        assert json.loads(out)["file"] == carried.generated.file and files(places) == [carried.generated.file]
        claims = [one.data["owner"]["pid"] for one in events.log_of(db, carried.job.id).events if one.type == "queue.claimed"]
        assert claims == [current_identity().pid]


def test_a_skill_that_a_user_added_needs_a_class_or_a_server_and_a_quality(places: Places) -> None:
    edit_skill(places, "abacus", **{"class": "guild.skills.binary.skill:BinarySkill", "options": SMALL, "api": {"url": "local"}})
    with open_guild(places) as db:
        refused = generate_now(
            db, places, {"count": 10, "skill": "abacus", "force": True}, settings=installation_config(places).auto_generate
        )
        assert refused.generated is None and "state `quality`" in refused.error
        edit_skill(places, "abacus", quality="binary")
        made = now(db, places, ManualClock(START), count=10, skill="abacus", level=6, force=True)
    assert made.file.startswith("train_abacus_level6_10_")
    row = rows(places, made.file)[0]
    assert (row["metadata"]["skill"], row["metadata"]["generator_id"]) == ("abacus", "bin_api")


def test_a_server_that_answers_nonsense_queues_nothing_and_the_job_is_tried_again(places: Places) -> None:
    answers = {"/health": {"status": "ok"}, "/info": {"id": "bin", "max_level": 30, "version": "1.0.0"}, "/generate": {"samples": [{}]}}
    with answering(answers) as port:
        edit_skill(places, "bin", api={})
        set_port(places, "skill_bin", port)
        with open_guild(places) as db:
            request(db, count=3, force=True)
            first = generation_round(db, places)
            assert first is not None and first.job.state == "queued" and "found 1 samples; allowed: the 3" in first.error
            request(db, count=1, force=True)
            states = [found.job.state for found in (generation_round(db, places) for _ in range(5)) if found is not None]
            assert states == ["queued", "failed", "queued", "queued", "failed"]
            assert "sample 0 has no text user_prompt and assistant_response" in str(jobs.list_jobs(db, kinds=("data_gen",)).jobs[-1].error)
    assert files(places) == []
