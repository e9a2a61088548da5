"""A job of kind `sparring`, carried out as a side job. (issue decision One job system, specs/guild.md 6.4)"""

from __future__ import annotations

from pathlib import Path

import pytest

from guild.places import Places
from guild.queue.status import list_queue
from guild.records import jobs
from guild.records.database import open_guild
from guild.records.jobs import NewJob
from guild.side_jobs.correcting import carry_out
from guild.side_jobs.work import Stopped, Work
from guild.skills.registry import load_skill
from helpers.guild_house import make_house
from helpers.guild_jobs import ME
from helpers.guild_sparring import ChatServer, chat_server, golden
from modelwright.files import read_json, write_json

ASK = {"skill": "bin", "level": 3, "count": 30, "seed": 7, "priority": "normal"}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return make_house(tmp_path / "guild", overrides={"profile": "none"})


def point_to(places: Places, server: ChatServer) -> None:
    registry = read_json(places.hosts)
    registry["hosts"][registry["default_inference"]]["services"]["inference"]["port"] = server.port
    write_json(places.hosts, registry)


def test_a_job_asks_the_registrys_host_and_its_result_is_stored(places: Places) -> None:
    with chat_server(golden(load_skill("bin").generate(3, 30, 7), wrong=2)) as server, open_guild(places) as db:
        point_to(places, server)
        jobs.enqueue(db, NewJob("sparring", ASK))
        held = jobs.claim(db, ME, kinds=("sparring",))
        assert held is not None
        result = carry_out(Work(db, places, held, ME, lambda: ""))
        done = jobs.finish(db, held.id, ME, result)
    assert done.result is not None and (done.result["rows"], done.result["queued"]) == (6, "normal")
    assert [row.priority for row in list_queue(places)] == ["normal"]


def test_a_job_that_should_stop_keeps_nothing(places: Places) -> None:
    with chat_server(golden(load_skill("bin").generate(3, 30, 7), wrong=2)) as server, open_guild(places) as db:
        point_to(places, server)
        jobs.enqueue(db, NewJob("sparring", ASK))
        held = jobs.claim(db, ME, kinds=("sparring",))
        assert held is not None
        with pytest.raises(Stopped, match="it is to be cancelled: 20 of 30 problems were asked"):
            carry_out(Work(db, places, held, ME, lambda: "it is to be cancelled"))
    assert len(server.requests) == 20 and list_queue(places) == [] and not list(places.sparring_data.iterdir())
