from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guild.errors import RefusedError
from guild.places import Places
from guild.records import ledger, orphans
from guild.records.checkpoint_marks import rename_to_canonical, usable_checkpoint
from guild.records.checkpoint_record import CampaignId, CheckpointFacts
from guild.records.checkpoint_sidecars import read_sidecar
from guild.records.database import open_guild
from helpers.guild_records import in_processes, killed_at_line, write_campaign, write_checkpoint
from modelwright.checkpoints import CheckpointStore
from modelwright.clock import SYSTEM_CLOCK
from modelwright.errors import DamagedFileError

DIO = CampaignId("dio-qwen3-0.6b", "campaign-001")
WRITING = ("records/ledger.py", "records/status_documents.py", "records/checkpoint_sidecars.py", "records/ledger_documents.py")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    write_campaign(tmp_path)
    return Places(tmp_path)


def folder(places: Places) -> Path:
    return places.campaigns / DIO.hero_id / DIO.campaign_id / "checkpoints"


def exported(places: Places) -> Any:
    return json.loads((places.status / "checkpoint_ledger.json").read_text())["checkpoints"]


def fill(places: Places, count: int = 4) -> dict[str, Any]:
    with open_guild(places) as db:
        for step in range(1, count + 1):
            path = write_checkpoint(folder(places), f"checkpoint-{step * 100}")
            ledger.record(db, places, path, facts=CheckpointFacts(train_loss=1 / step, skill_name="bin", extra={"note": f"n{step}"}))
    return dict(exported(places))


def lose_rows(places: Places) -> None:
    with open_guild(places) as db:
        db.execute("DELETE FROM checkpoints")


def lose_database(places: Places) -> None:
    for path in places.base.glob("guild.db*"):
        path.unlink()


def lose_export(places: Places) -> None:
    shutil.rmtree(places.status)


def spoil_export(places: Places) -> None:
    (places.status / "checkpoint_ledger.json").write_bytes(b'{"schema_version": 1, "checkpo')


@pytest.mark.parametrize("lose", [lose_rows, lose_database, lose_export, spoil_export])
def test_item_22_the_ledger_is_rebuilt_from_the_sidecars(places: Places, lose: Callable[[Places], None]) -> None:
    before = fill(places)
    lose(places)
    with open_guild(places) as db:
        rebuilt = orphans.rebuild(db, places)
        assert (rebuilt.listed, rebuilt.gone) == (4, ())
        assert ["is damaged" in fault for fault in rebuilt.faults] == ([True] if lose is spoil_export else [])
        assert {record.key: record.model_dump() for record in ledger.list_all(db)} == before == exported(places)
        assert orphans.rebuild(db, places).faults == ()


def test_item_22_scanning_and_adopting_restore_the_index_one_by_one(places: Places) -> None:
    before = fill(places)
    lose_rows(places)
    with open_guild(places) as db:
        found = orphans.scan_orphans(db, places)
        assert [(orphan.step, orphan.has_sidecar, orphan.reasons) for orphan in found] == [(n, True, ()) for n in (100, 200, 300, 400)]
        for orphan in found:
            orphans.adopt_orphan(db, places, orphan.path)
        assert orphans.scan_orphans(db, places) == []
    assert exported(places) == before


def test_a_kill_between_rename_and_record_leaves_an_orphan_that_is_adopted_from_the_trainers_state(places: Places) -> None:
    plain = write_checkpoint(folder(places), "checkpoint-700")
    path = rename_to_canonical(plain, 700, SYSTEM_CLOCK.now())
    with open_guild(places) as db:
        found = orphans.scan_orphans(db, places)
        assert [(orphan.path, orphan.has_sidecar, orphan.reasons) for orphan in found] == [(path, False, ())]
        adopted = orphans.adopt_orphan(db, places, path)
        assert (adopted.step, adopted.train_loss, adopted.val_loss, adopted.learning_rate, adopted.epoch) == (700, 1.5, 1.75, 1e-4, 0.5)
        assert adopted.campaign == DIO and adopted.has_optimizer and not (path / ".ledger.json").exists()
        assert orphans.adopt_orphan(db, places, path, keep_sidecar=True) == adopted == read_sidecar(path)
        assert orphans.rebuild(db, places).listed == 1 and ledger.get(db, 700) == adopted


def test_what_a_trainer_left_unrecorded_is_adopted_and_nothing_is_written_into_what_others_saved(places: Places) -> None:
    fill(places, 1)
    other = write_checkpoint(folder(places), "checkpoint-500")
    broken = write_checkpoint(folder(places), "checkpoint-600")
    (broken / ".ledger.json").write_text("{")
    write_checkpoint(folder(places), "checkpoint-800", trainer_state=False)

    def save(target: Path) -> None:
        for file in other.iterdir():
            shutil.copy(file, target)
        state = json.loads((other / "trainer_state.json").read_text())
        told = {"global_step": 700, "training_file": "a.jsonl", "skill_name": "bin", "skill_level": 3}
        (target / "trainer_state.json").write_text(json.dumps({**state, **told}))

    ours = CheckpointStore(folder(places)).save("checkpoint-700", save, step=700).path
    with open_guild(places) as db:
        adopted = orphans.adopt_below(db, places, folder(places))
        assert [(record.step, record.training_file, record.skill_name, record.skill_level) for record in adopted] == [
            (500, None, None, None), (700, "a.jsonl", "bin", 3),
        ]  # fmt: skip
        assert adopted[1].train_loss == 1.5 and read_sidecar(ours) == adopted[1] and usable_checkpoint(ours, deep=True) == []
        assert not (other / ".ledger.json").exists() and len(exported(places)) == 3
        assert orphans.adopt_below(db, places, folder(places)) == []
        assert {orphan.step for orphan in orphans.scan_orphans(db, places)} == {600, 800}  # named there


def test_one_damaged_sidecar_is_named_and_everything_else_stays_listed(places: Places) -> None:
    before = fill(places)
    broken = folder(places) / "checkpoint-200" / ".ledger.json"
    for damage in (b"", b'{"step": 2', b'{"step": 200}', b'{"step": 300, "timestamp": "", "path": "", "canonical_name": ""}', b"[]"):
        broken.write_bytes(damage)
        with open_guild(places) as db:
            rebuilt = orphans.rebuild(db, places)
            assert rebuilt.listed == 3 and len(rebuilt.faults) == 1 and str(broken) in rebuilt.faults[0]
            assert exported(places) == {key: record for key, record in before.items() if record["step"] != 200}
            assert [str(broken) in orphan.reasons[0] for orphan in orphans.scan_orphans(db, places)] == [True]
            with pytest.raises(DamagedFileError, match="Restore it or delete it"):
                orphans.adopt_orphan(db, places, broken.parent)
            ledger.record(db, places, write_checkpoint(folder(places), "checkpoint-900"))  # it stops nobody
            shutil.rmtree(folder(places) / "checkpoint-900")


def test_cut_off_saves_are_named_never_listed_and_never_adopted(places: Places) -> None:
    fill(places, 1)
    cut = write_checkpoint(folder(places), "checkpoint-900", trainer_state=False)
    with open_guild(places) as db:
        rebuilt = orphans.rebuild(db, places)
        assert rebuilt.listed == 1 and "cut off" in rebuilt.faults[0]
        assert [orphan.reasons for orphan in orphans.scan_orphans(db, places)] == [tuple(usable_checkpoint(cut))]
        with pytest.raises(RefusedError, match="cut off"):
            orphans.adopt_orphan(db, places, cut)


def test_a_rebuild_names_what_is_gone_and_what_another_folder_outranks(places: Places) -> None:
    fill(places, 2)
    shutil.rmtree(folder(places) / "checkpoint-100")
    copy = folder(places) / "checkpoint-200-20251127-1430"
    shutil.copytree(folder(places) / "checkpoint-200", copy)
    with open_guild(places) as db:
        rebuilt = orphans.rebuild(db, places)
        assert [Path(path).name for path in rebuilt.gone] == ["checkpoint-100"]
        assert rebuilt.listed == 1 and "holds the same step" in rebuilt.faults[0]
        found = orphans.scan_orphans(db, places)
        assert [orphan.outranked for orphan in found] == [True]
        with pytest.raises(RefusedError, match="another folder"):
            orphans.adopt_orphan(db, places, found[0].path)


def test_an_archived_campaign_keeps_its_entries_under_its_id(places: Places) -> None:
    before = fill(places, 2)
    target = places.archive / DIO.hero_id / f"{DIO.campaign_id}-archived"
    target.parent.mkdir(parents=True)
    folder(places).parent.rename(target)
    with open_guild(places) as db:
        rebuilt = orphans.rebuild(db, places)
        assert rebuilt.listed == 2 and len(rebuilt.gone) == 2
        after = {record.key: record.model_dump() for record in ledger.list_all(db)}
    assert {key: {**record, "path": ""} for key, record in after.items()} == {key: {**record, "path": ""} for key, record in before.items()}
    assert all(str(target) in record["path"] for record in after.values())


def test_a_kill_at_any_line_of_a_record_converges(tmp_path: Path) -> None:
    """SIGKILL before every ninth line of what writes sidecar, row and export; then either a rebuild or the next record mends all."""
    outcomes = []
    for line in range(1, 2000, 9):
        places = Places(tmp_path / str(line))
        write_campaign(places.base)
        fill(places, 1)
        path = write_checkpoint(folder(places), "checkpoint-500")

        def work(places: Places = places, path: Path = path) -> None:
            with open_guild(places) as db:
                ledger.record(db, places, path)

        if not (died := killed_at_line(line, WRITING, work)):
            break
        recorded = (path / ".ledger.json").exists()
        assert exported(places)  # whole at every moment
        with open_guild(places) as db:
            outcomes.append((recorded, ledger.get(db, 500) is not None, len(exported(places)) == 2))
            if line % 2:
                orphans.rebuild(db, places)
                assert ledger.get(db, 500) is not None
            else:
                ledger.record(db, places, write_checkpoint(folder(places), "checkpoint-600"))
                assert (ledger.get(db, 500) is not None) == recorded
            if recorded:
                assert ledger.get(db, 500) == read_sidecar(path)
            assert {record.key: record.model_dump() for record in ledger.list_all(db)} == exported(places)
            assert db.check() == [] and orphans.rebuild(db, places).faults == () and orphans.scan_orphans(db, places) == []
    assert not died
    # deaths before the sidecar, between sidecar and row, between row and export, and after all three
    assert {(False, False, False), (True, False, False), (True, True, False), (True, True, True)} <= set(outcomes)


def test_a_rebuild_beside_writers_loses_nothing(places: Places) -> None:
    paths = [write_checkpoint(folder(places), f"checkpoint-{step}") for step in range(1, 13)]

    def write(mine: list[Path]) -> None:
        with open_guild(places) as db:
            for path in mine:
                ledger.record(db, places, path)

    def mend() -> None:
        with open_guild(places) as db:
            for _ in range(8):
                orphans.rebuild(db, places)

    in_processes([lambda: write(paths[::2]), lambda: write(paths[1::2]), mend])
    with open_guild(places) as db:
        found = {record.key: record.model_dump() for record in ledger.list_all(db)}
    assert len(found) == 12 and found == exported(places)
    for path in paths:
        sidecar = read_sidecar(path)
        assert sidecar is not None and found[sidecar.key] == sidecar.model_dump()
