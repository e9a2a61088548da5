"""What the inbox refuses is told once, as an event, and the house decides about rows that name no schema."""

from __future__ import annotations

from pathlib import Path

from guild.campaigns.config_file import edit_config_file
from guild.loop.daemon import Daemon
from guild.loop.start import start
from guild.places import Places
from guild.records.database import open_guild
from guild.records.events import read_after
from guild.records.jobs import find_file
from helpers.guild_house import make_house, put
from helpers.guild_queue import age
from helpers.guild_rows import chat, write_rows
from modelwright.control import SignalFlag


def take_in(places: Places, rounds: int) -> list[str]:
    """So many looks at the inbox by one daemon; what its events said of things that stay there."""
    started = start(places)
    try:
        daemon = Daemon(started, SignalFlag(), 1.0, say=lambda line: None)
        for _ in range(rounds):
            daemon._take_in()
        return [event.message for event in read_after(started.db, 0).events if event.type == "queue.left_in_inbox"]
    finally:
        started.close()


def test_what_stays_in_the_inbox_is_one_event_each(tmp_path: Path) -> None:
    places = make_house(tmp_path)
    put(places, "good.jsonl", 4)
    for name in ("readme.txt", "half.jsonl.part"):
        (places.inbox / name).write_text("{")
        age(places.inbox / name, 60)
    told = take_in(places, 3)
    assert len(told) == 2 and "readme.txt" in told[1] and "half.jsonl.part" in told[0]


def test_item_16_the_daemon_takes_rows_without_a_schema_only_where_the_house_allows_it(tmp_path: Path) -> None:
    places = make_house(tmp_path)
    for name, state in (("a.jsonl", "rejected"), ("b.jsonl", "queued")):
        age(write_rows(places.inbox / name, [chat()]), 60)
        assert take_in(places, 1) == []
        with open_guild(places) as db:
            assert find_file(db, name).state == state
        edit_config_file(places, {"validation": {"allow_default": True}})
