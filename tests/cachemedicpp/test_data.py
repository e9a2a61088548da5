"""Text and reviews: splits that never meet, records of where they came from, no silent change of source."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

from cachemedicpp.config.settings import PACKAGE
from cachemedicpp.inputs.offline import REVIEWS, TEXT_LINES, write_offline_data
from cachemedicpp.inputs.sources import LIBRARY, SPLITS, DataUnavailableError
from cachemedicpp.inputs.texts import load_reviews, load_text, training_line_count
from helpers.medic_data import data_settings
from modelwright.errors import UsageError


@pytest.mark.parametrize("source", ["data/offline/wikitext2_sample.txt", LIBRARY])
def test_the_three_texts_are_disjoint_and_their_records_say_so(source: str) -> None:
    """Acceptance 43."""
    loaded = {split: load_text(data_settings(source), split) for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not set(loaded[one].items) & set(loaded[other].items)
        first, second = loaded[one].provenance, loaded[other].provenance
        assert first.last < second.first and first.sha256 != second.sha256
    for split, found in loaded.items():
        record = found.provenance.as_dict()
        assert record["split"] == split and record["items"] == len(found.items) > 20
        assert record["sha256"] == hashlib.sha256("".join(f"{line}\n" for line in found.items).encode()).hexdigest()
        assert len(record["source_sha256"]) == 64
        json.dumps(record)


def test_reviews_are_disjoint_too_and_hold_both_labels() -> None:
    loaded = {split: load_reviews(data_settings(), split) for split in SPLITS}
    texts = [{review.text for review in found.items} for found in loaded.values()]
    assert not any(one & other for one, other in combinations(texts, 2))
    assert [len(found.items) for found in loaded.values()] == [360, 120, 120]
    assert all(40 <= 100 * sum(review.label for review in found.items) / len(found.items) <= 60 for found in loaded.values())


def test_the_packaged_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    for written in write_offline_data(tmp_path):
        assert written.read_bytes() == (PACKAGE / "data" / "offline" / written.name).read_bytes()
    lines = (tmp_path / "wikitext2_sample.txt").read_text().splitlines()
    rows = [json.loads(line) for line in (tmp_path / "sst2_sample.jsonl").read_text().splitlines()]
    assert len(set(lines)) == TEXT_LINES and len({row["text"] for row in rows}) == REVIEWS


def test_lines_are_counted_from_the_split_and_cut_to_the_limit() -> None:
    found = load_text(data_settings(), "validation", limit=5)
    assert len(found.items) == 5
    assert (found.provenance.first, found.provenance.last) == (289, 293)
    assert found.items == load_text(data_settings(), "validation").items[:5]
    assert training_line_count(12_000) == 6064 and training_line_count(10) == 512


def test_a_line_that_stands_in_two_splits_belongs_to_the_first(tmp_path: Path) -> None:
    lines = [f"line {number}" for number in range(10)]
    lines[7] = lines[9] = lines[2]
    (tmp_path / "text.txt").write_text("\n\n".join(lines), encoding="utf-8")
    own = data_settings(str(tmp_path / "text.txt"))
    assert load_text(own, "train").items == tuple(lines[:6])
    validation, test = load_text(own, "validation"), load_text(own, "test")
    assert validation.items == ("line 6",) and validation.provenance.repeated == 1
    assert test.items == ("line 8",) and test.provenance.repeated == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no line for the split train"),
        (b"one line\n", "no line for the split"),
        (b"\xff\xfe", "not UTF-8 text"),
    ],
)
def test_text_files_that_do_not_serve_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(DataUnavailableError, match=message):
        load_text(data_settings(str(tmp_path / "text.txt")), "train")


@pytest.mark.parametrize(
    "row", ['{"text": "fine"', '{"text": "fine"}', '{"text": "", "label": 1}', '{"text": "fine", "label": true}', "[]"]
)
def test_a_bad_review_is_named_by_its_line(tmp_path: Path, row: str) -> None:
    (tmp_path / "reviews.jsonl").write_text('{"text": "good", "label": 1}\n' + row + "\n", encoding="utf-8")
    with pytest.raises(DataUnavailableError, match=r"reviews\.jsonl:2"):
        load_reviews(data_settings(reviews=str(tmp_path / "reviews.jsonl")), "train")


def test_a_missing_file_and_a_wrong_split_are_sentences() -> None:
    with pytest.raises(DataUnavailableError, match=r"offline_paths\.wikitext2 is 'nowhere\.txt'"):
        load_text(data_settings("nowhere.txt"), "train")
    with pytest.raises(UsageError, match="allowed are train, validation, test"):
        load_text(data_settings(), "dev")  # type: ignore[arg-type]


SCRIPT = """
import sys
connections = []
sys.addaudithook(lambda name, _: connections.append(name) if name in ("socket.connect", "socket.getaddrinfo") else None)
sys.path.insert(0, sys.argv[1])
from helpers.medic_data import data_settings
from cachemedicpp.inputs.texts import load_reviews, load_text
try:
    found = len(load_text(data_settings(offline=sys.argv[2] == "offline"), "train").items)
    found += len(load_reviews(data_settings(offline=sys.argv[2] == "offline"), "test").items)
except Exception as error:
    print(type(error).__name__, getattr(error, "exit_code", None), error)
    sys.exit(1)
print(found, len(connections), "datasets" in sys.modules)
"""


def run(mode: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parents[1]), mode]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_offline_opens_no_connection_and_online_never_falls_back_to_files(tmp_path: Path) -> None:
    """The data's half of acceptance 33."""
    offline = run("offline", tmp_path)
    assert offline.stdout.split() == ["408", "0", "False"], offline.stderr
    online = run("hub", tmp_path)
    assert online.returncode == 1
    assert online.stdout.startswith("DataUnavailableError 1 ") and "use_offline: true" in online.stdout
