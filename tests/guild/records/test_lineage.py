from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from guild.places import Places
from guild.records import data_sidecars, lineage
from guild.records.data_sidecars import DataSidecar, new_data_sidecar, read_data_sidecar, sidecar_path, write_data_sidecar
from guild.records.database import open_guild
from guild.records.lineage_documents import lineage_document
from helpers.guild_records import in_processes, killed_at_line
from modelwright.clock import ManualClock
from modelwright.errors import DamagedFileError


@dataclass
class Said:
    valid: bool
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    validator_name: str = "spec_validator"
    validator_version: str = "1.0.0"
    generator_id: str | None = None
    generator_version: str | None = None


@pytest.fixture
def places(tmp_path: Path) -> Places:
    Places(tmp_path).inbox.mkdir()
    return Places(tmp_path)


def data_file(places: Places, name: str = "train_bin_level1_5_20260101_000000.jsonl", generator: str = "bin_api") -> Path:
    path = places.inbox / name
    path.write_text("{}\n")
    write_data_sidecar(path, new_data_sidecar(generator, "1.0.0", 5, params={"level": 1, "seed": 7}, source="http"))
    return path


def exported(places: Places) -> Any:
    return json.loads((places.status / "data_lineage.json").read_text())


def test_item_29_totals_stand_by_id_and_version_with_the_fields_of_the_contract(places: Places) -> None:
    clock = ManualClock()
    with open_guild(places) as db:
        for number in range(10):
            clock.advance(1)
            bad = number < 3
            said = Said(not bad, tuple(f"line {line}: bad role" for line in range(number + 1)) if bad else (), generator_id="bin_api")
            said.generator_version = "1.0.0"
            lineage.record_validation(db, places, said, file_name=f"{number}.jsonl", clock=clock)
            if number == 8:
                assert exported(places)["summary"]["worst_generator"] is None  # nine samples
        deep = Said(False, ("too long",), validator_name="data_validator", validator_version="1.1.0", generator_id="bin_api")
        lineage.record_validation(db, places, deep, file_name="9.jsonl", clock=clock)
        document = lineage_document(db)
    assert exported(places) == {"schema_version": 1, **document}
    assert set(document) == {"total_validations", "last_updated", "generators", "validators", "summary"}
    assert document["generators"]["bin_api@1.0.0"] == {
        "total": 10,
        "passed": 7,
        "failed": 3,
        "fail_rate": 0.3,
        "by_validator": {"spec_validator@1.0.0": {"total": 10, "passed": 7, "failed": 3}},
        "last_seen": "2026-01-01T00:00:10.000Z",
        "top_errors": [{"error": "line #: bad role", "count": 6}],
    }
    assert document["generators"]["bin_api@0"]["failed"] == 1  # a report without the version is another entry, not a guess
    assert set(document["validators"]) == {"spec_validator@1.0.0", "data_validator@1.1.0"}
    assert document["validators"]["spec_validator@1.0.0"]["by_generator"] == {"bin_api@1.0.0": {"total": 10, "passed": 7, "failed": 3}}
    assert document["summary"] == {
        "total_generators": 2,
        "total_validators": 2,
        "worst_generator": {"id": "bin_api@1.0.0", "fail_rate": 0.3, "total": 10},
        "worst_validator": {"id": "spec_validator@1.0.0", "fail_rate": 0.3, "total": 10},
        "overall_fail_rate": 4 / 11,
    }


def test_at_most_five_kinds_of_errors_are_shown_the_most_frequent_first(places: Places) -> None:
    errors = tuple(kind for count, kind in enumerate("abcdefg", start=1) for _ in range(count))
    with open_guild(places) as db:
        lineage.record_validation(db, places, Said(False, errors), file_name="x.jsonl")
        top = lineage_document(db)["generators"]["unknown@0"]["top_errors"]
    assert [(entry["error"], entry["count"]) for entry in top] == [("g", 7), ("f", 6), ("e", 5), ("d", 4), ("c", 3)]


def test_an_empty_lineage_is_a_document_too(places: Places) -> None:
    with open_guild(places) as db:
        document = lineage_document(db)
    assert document["total_validations"] == 0 and document["last_updated"] is None and document["summary"]["worst_generator"] is None


def test_the_sidecar_beside_the_data_takes_the_verdict_and_names_the_generator(places: Places) -> None:
    path = data_file(places)
    assert sidecar_path(path).parent == path.parent
    raw = json.loads(sidecar_path(path).read_text())
    sidecar_path(path).write_text(json.dumps({**raw, "added_elsewhere": 1}))
    with open_guild(places) as db:
        clock = ManualClock()
        verdict = lineage.record_validation(db, places, Said(True, warnings=("w",)), path, clock=clock)
        clock.advance(1)
        bad = Said(False, ("e1", "e2"), validator_name="data_validator", validator_version="1.1.0")
        lineage.record_validation(db, places, bad, path, clock=clock)
    assert verdict.generator == "bin_api@1.0.0"
    found = read_data_sidecar(path)
    assert found is not None and found.generator_id == "bin_api" and found.params == {"level": 1, "seed": 7} and found.source == "http"
    assert found.validator_versions == {"spec_validator": "1.0.0", "data_validator": "1.1.0"}
    assert (found.validated_at, found.validation_passed) == ("2026-01-01T00:00:01.000Z", False)
    assert found.validation_errors == ["e1", "e2"] and found.model_dump()["added_elsewhere"] == 1
    with open_guild(places) as db:
        clock.advance(1)
        bad.valid, bad.errors = True, ()
        lineage.record_validation(db, places, bad, path, clock=clock)
    again = read_data_sidecar(path)
    assert again is not None and again.validation_passed is True and len(again.extra["validations"]) == 3


def test_the_table_is_rebuilt_from_sidecars_wherever_the_files_have_gone(places: Places) -> None:
    files = [data_file(places, f"{number}.jsonl", "sparring") for number in range(3)]
    with open_guild(places) as db:
        for number, path in enumerate(files):
            lineage.record_validation(db, places, Said(number > 0, () if number else ("broken",)), path)
            lineage.record_validation(db, places, Said(True, validator_name="data_validator", validator_version="1.1.0"), path)
        before = lineage_document(db)
    places.level("high").mkdir(parents=True)
    for path in (files[0], sidecar_path(files[0])):
        path.rename(places.level("high") / path.name)
    (places.status / "data_lineage.json").unlink()
    with open_guild(places) as db:
        db.execute("DELETE FROM validations")
        assert lineage.rebuild_lineage(db, places) == [] and lineage_document(db) == before
        assert lineage.rebuild_lineage(db, places) == [] and lineage_document(db) == before
        sidecar_path(files[1]).write_text("{")
        db.execute("DELETE FROM validations")
        faults = lineage.rebuild_lineage(db, places)
        assert len(faults) == 1 and "1.jsonl.meta.json" in faults[0] and lineage_document(db)["total_validations"] == 4
    assert exported(places)["total_validations"] == 4


def test_a_damaged_sidecar_stops_the_record_with_every_wrong_field(places: Places) -> None:
    path = data_file(places)
    sidecar_path(path).write_text('{"generator_id": 7, "generator_version": "1.0.0", "generated_at": "x", "example_count": -1}')
    with open_guild(places) as db, pytest.raises(DamagedFileError) as damaged:
        lineage.record_validation(db, places, Said(True), path)
    assert "generator_id" in str(damaged.value) and "example_count" in str(damaged.value)


def test_the_known_generators_and_validators_have_the_versions_of_the_contract() -> None:
    expected = {"discrimination", "syllo_local", "syllo_api", "curriculum", "manual", "bin_api", "sparring"}
    assert set(data_sidecars.GENERATORS) == expected and set(data_sidecars.GENERATORS.values()) == {"1.0.0"}
    assert data_sidecars.VALIDATORS == {"spec_validator": "1.0.0", "data_validator": "1.1.0"}
    assert data_sidecars.generator_version("sparring") == "1.0.0"
    with pytest.raises(data_sidecars.UnknownGeneratorError, match="bin_api"):
        data_sidecars.generator_version("bin_apy")


def test_sidecar_fields_are_those_of_the_contract() -> None:
    fields = {"generator_id", "generator_version", "generated_at", "example_count", "params", "validated_at", "validator_versions"}
    fields |= {"validation_passed", "validation_errors", "validation_warnings", "source", "extra", "schema_version"}
    assert set(DataSidecar.model_fields) == fields


def test_processes_that_validate_at_once_lose_no_verdict(places: Places) -> None:
    path = data_file(places)

    def work(number: int) -> None:
        with open_guild(places) as db:
            for turn in range(5):
                said = Said(True, validator_name=f"v{number}", validator_version=str(turn))
                lineage.record_validation(db, places, said, path)

    in_processes([lambda number=number: work(number) for number in range(4)])  # type: ignore[misc]
    found = read_data_sidecar(path)
    assert found is not None and len(found.extra["validations"]) == 20 and len(found.validator_versions) == 4
    assert exported(places)["total_validations"] == 20


def test_a_kill_at_any_line_leaves_what_a_rebuild_completes(places: Places) -> None:
    modules = ("records/lineage.py", "records/status_documents.py", "records/data_sidecars.py", "records/lineage_documents.py")
    deaths = 0
    for line in range(1, 2000, 11):
        path = data_file(places, f"{line}.jsonl")

        def work(path: Path = path) -> None:
            with open_guild(places) as db:
                lineage.record_validation(db, places, Said(True), path)

        if not (died := killed_at_line(line, modules, work)):
            break
        deaths += 1
        sidecar = read_data_sidecar(path)
        assert sidecar is not None  # whole at every moment
        with open_guild(places) as db:
            assert lineage.rebuild_lineage(db, places) == []
            count = db.row("SELECT count(*) AS n FROM validations WHERE file = ?", (path.name,))
            assert count == {"n": int(sidecar.validation_passed is True)}
            assert exported(places) == {"schema_version": 1, **lineage_document(db)}
    assert not died and deaths > 5
