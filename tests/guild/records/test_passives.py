from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guild.places import Places
from guild.records import passives
from guild.records.checkpoint_record import CampaignId
from guild.records.database import open_guild
from guild.records.evaluation_records import Passive, PassiveMode, new_passive
from helpers.guild_records import in_processes, write_campaign

DIO, OTHER = CampaignId("dio-qwen3-0.6b", "campaign-001"), CampaignId("dio-qwen3-0.6b", "campaign-002")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    write_campaign(tmp_path)
    return Places(tmp_path)


def made(step: int = 500, mode: PassiveMode = "lite", total: int = 5, campaign: CampaignId = DIO, **further: Any) -> Passive:
    version = further.pop("version", "1.0.0")
    return new_passive(campaign, step, "arithmetic", mode, version, correct=3, total=total, timestamp="2026-01-01T00:00:00Z", **further)


def test_the_document_is_keyed_by_step_id_mode_and_version_within_each_campaign(places: Places) -> None:
    with open_guild(places) as db:
        for passive in (made(config_hash="abc"), made(version="1.1.0"), made(mode="full", total=30), made(campaign=OTHER)):
            assert passives.record_passive(db, places, passive)
        assert passives.has_passive(db, DIO, 500, "arithmetic", "lite", "1.1.0")
        assert not passives.has_passive(db, DIO, 500, "arithmetic", "lite", "2.0.0")
        assert len(passives.passives_of(db, DIO, mode="lite")) == 2 and len(passives.passives_of(db, step=1)) == 0
    document = json.loads((places.status / "passives_ledger.json").read_text())
    keys = {"500:arithmetic:lite:1.0.0", "500:arithmetic:lite:1.1.0", "500:arithmetic:full:1.0.0"}
    assert set(document["campaigns"][DIO.key]) == keys and document["count"] == 4 and document["schema_version"] == 1
    assert set(document["campaigns"][OTHER.key]) == {"500:arithmetic:lite:1.0.0"}
    entry = document["campaigns"][DIO.key]["500:arithmetic:lite:1.0.0"]
    assert entry["config_hash"] == "abc" and entry["accuracy"] == 0.6 and 0 < entry["interval_low"] < 0.6 < entry["interval_high"] < 1
    own = json.loads((places.campaigns / DIO.hero_id / DIO.campaign_id / "status" / "passives_ledger.json").read_text())
    assert set(own["passives"]) == keys


@pytest.mark.parametrize(("mode", "total"), [("lite", 4), ("lite", 6), ("full", 29), ("full", 51)])
def test_a_mode_has_its_number_of_problems(mode: PassiveMode, total: int) -> None:
    with pytest.raises(ValueError, match="problems"):
        made(mode=mode, total=total)


def test_processes_that_record_at_once_lose_nothing(places: Places) -> None:
    def work(number: int) -> None:
        with open_guild(places) as db:
            for step in range(5):
                passives.record_passive(db, places, made(10 * step + number))

    in_processes([lambda number=number: work(number) for number in range(3)])  # type: ignore[misc]
    document = json.loads((places.status / "passives_ledger.json").read_text())
    assert len(document["campaigns"][DIO.key]) == 15 == document["count"]
