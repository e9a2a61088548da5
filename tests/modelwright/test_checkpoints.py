"""Checkpoints are complete and listed, or ignored; damage is named and skipped."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright import checkpoints as module
from modelwright.checkpoints import MANIFEST_NAME, CheckpointStore
from modelwright.errors import DamagedFileError, DiskFullError, MissingFileError, StorageError, UsageError
from modelwright.files import read_json

SYNCS_OF_A_SAVE = 7
"""Two files, two folders, the manifest, its folder, the store."""


def content(text: str):
    def write(folder: Path) -> None:
        (folder / "state.json").write_text(text)
        (folder / "adapters").mkdir()
        (folder / "adapters" / "weights.bin").write_bytes(text.encode() * 50)

    return write


def names(store: CheckpointStore) -> list[str]:
    return [found.name for found in store.list()]


def test_a_saved_checkpoint_is_listed_with_its_manifest_and_verifies(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "läufe ⓪" / "checkpoints")
    saved = store.save("phase_0", content("a"), step=3, metadata={"rung": 512})
    assert store.list() == [saved] and store.latest() == saved and store.get("phase_0") == saved
    assert (saved.step, saved.sequence, saved.metadata) == (3, 1, {"rung": 512})
    assert set(saved.files) == {"state.json", "adapters/weights.bin"} and saved.size_bytes == 51
    assert store.verify("phase_0") == [] and store.problems(deep=True) == []
    assert (store.root / "latest").read_text() == "phase_0\n"
    assert read_json(saved.path / MANIFEST_NAME)["files"]["state.json"]["size"] == 1


def test_list_is_by_step_and_latest_by_order_of_saving(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for name, step in (("b", 20), ("a", 10), ("none", None)):
        store.save(name, content(name), step=step)
    assert names(store) == ["none", "a", "b"]
    latest = store.latest()
    assert latest is not None and latest.name == "none"


@pytest.mark.parametrize("atomic", [True, False])
def test_a_second_save_of_a_name_replaces_the_first(tmp_path: Path, atomic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not atomic:
        monkeypatch.setattr(module, "exchange", lambda first, second: False)
    store = CheckpointStore(tmp_path)
    store.save("a", content("old"), step=1)
    store.save("a", content("new"), step=2)
    latest = store.latest()
    assert latest is not None and (latest.step, latest.sequence) == (2, 2)
    assert (latest.path / "state.json").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["a", "latest"]


def test_killed_between_the_two_renames_the_old_one_is_still_found_and_comes_back(tmp_path: Path) -> None:
    """Where the file system cannot swap names there is a moment without the name; readers look behind it."""
    store = CheckpointStore(tmp_path)
    store.save("a", content("old"), step=1)
    os.rename(tmp_path / "a", tmp_path / module.marked(module.REPLACED, "a"))
    reader = CheckpointStore(tmp_path, writer=False)
    latest = reader.latest()
    assert latest is not None and latest.name == "a" and reader.verify("a") == []
    dead = tmp_path / "x"
    code = "import sys; from modelwright import checkpoints as m; print(m.marked(m.REPLACED, 'a'))"
    stale = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    os.rename(latest.path, tmp_path / stale)
    CheckpointStore(tmp_path)
    assert (tmp_path / "a").is_dir() and not (tmp_path / stale).exists() and not dead.exists()


@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_flipping_any_bit_of_any_file_is_found_and_named(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("flip")
    store = CheckpointStore(root)
    store.save("good", content("a"), step=1)
    store.save("bad", content("b"), step=2, metadata={"loss": 1.5})
    victim = root / "bad" / data.draw(st.sampled_from(["state.json", "adapters/weights.bin", MANIFEST_NAME]))
    blob = bytearray(victim.read_bytes())
    position = data.draw(st.integers(0, len(blob) - 1))
    blob[position] ^= 1 << data.draw(st.integers(0, 7))
    whitespace_only = bytes(blob).split() == victim.read_bytes().split()
    victim.write_bytes(blob)
    faults = store.verify("bad")
    if victim.name == MANIFEST_NAME and whitespace_only:
        return  # the manifest still says the same
    assert faults and str(victim) in " ".join(faults)
    latest = store.latest()
    assert latest is not None and latest.name == "good"
    assert any("bad" in sentence and str(victim) in sentence for sentence in store.problems())
    assert "good" in names(store)


@pytest.mark.parametrize("damage", ["missing file", "cut file", "no manifest", "empty manifest", "folder for file"])
def test_an_incomplete_checkpoint_is_not_listed_and_told(tmp_path: Path, damage: str) -> None:
    store = CheckpointStore(tmp_path)
    store.save("good", content("a"), step=1)
    store.save("bad", content("b"), step=2)
    state, manifest = tmp_path / "bad" / "state.json", tmp_path / "bad" / MANIFEST_NAME
    if damage == "missing file":
        state.unlink()
    elif damage == "cut file":
        os.truncate(state, 0)
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "empty manifest":
        os.truncate(manifest, 0)
    else:
        state.unlink()
        state.mkdir()
    assert names(store) == ["good"]
    assert len(store.problems()) == 1 and str(tmp_path / "bad") in store.problems()[0]
    with pytest.raises(DamagedFileError):
        store.get("bad")
    assert len(store.verify("bad")) == 1


def test_a_file_that_nobody_manifested_hides_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save("a", content("a"))
    (tmp_path / "a" / "notes.txt").write_text("mine")
    (tmp_path / "stray").write_text("a file beside the checkpoints")
    assert names(store) == ["a"] and store.problems(deep=True) == []


def test_a_save_that_fails_changes_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save("a", content("old"), step=1)

    def broken(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("defect")

    with pytest.raises(RuntimeError, match="defect"):
        store.save("a", broken)
    with pytest.raises(UsageError, match="no file written"):
        store.save("b", lambda folder: None)
    with pytest.raises(UsageError, match="link"):
        store.save("b", lambda folder: (folder / "l").symlink_to("/etc/passwd"))
    with pytest.raises(UsageError, match=MANIFEST_NAME):
        store.save("b", lambda folder: (folder / MANIFEST_NAME).touch())
    assert sorted(os.listdir(tmp_path)) == ["a", "latest"]
    assert (tmp_path / "a" / "state.json").read_text() == "old"


def test_a_full_disk_is_recognised_behind_the_words_of_a_library(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(DiskFullError, match="Free some space"):
        CheckpointStore(tmp_path).save("a", full)


def test_a_failed_fsync_is_never_reported_as_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail each fsync of a save in turn, once: the save raises, and what was there before still verifies."""
    store = CheckpointStore(tmp_path)
    store.save("a", content("old"), step=1)
    real = os.fsync
    for number in range(1, SYNCS_OF_A_SAVE + 2):
        calls = 0

        def once(descriptor: int, number: int = number) -> None:
            nonlocal calls
            calls += 1
            if calls == number:
                raise OSError(errno.EIO, "Input/output error")
            real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", once)
            if number <= SYNCS_OF_A_SAVE:
                with pytest.raises(StorageError, match="input/output error"):
                    store.save("a", content("new"), step=2)
            else:
                store.save("a", content("new"), step=2)
        assert store.verify("a") == []
    latest = store.latest()
    assert latest is not None and latest.step == 2


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "latest", "a b", "x" * 129, "a~b", "é"])
def test_names_that_cannot_be_folders_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="checkpoint name: found"):
        CheckpointStore(tmp_path).save(name, content("a"))
    assert os.listdir(tmp_path) == []


def test_the_longest_name_fits_with_its_marks(tmp_path: Path) -> None:
    CheckpointStore(tmp_path).save("x" * 128, content("a"))


STAGE_AND_DIE = """
import os, sys
from modelwright.checkpoints import CheckpointStore
def write(folder):
    (folder / "half").write_text("x")
    print(folder.name, flush=True)
    if len(sys.argv) > 2:
        sys.stdin.read()
    os.kill(os.getpid(), 9)
CheckpointStore(sys.argv[1]).save("a", write)
"""


def test_staging_of_a_dead_process_is_cleaned_and_of_a_live_one_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STAGE_AND_DIE, str(tmp_path)]
    dead = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    reader = CheckpointStore(tmp_path, writer=False)
    assert (tmp_path / dead / "half").exists() and reader.list() == []
    assert dead in reader.problems()[0]
    live_process = subprocess.Popen([*command, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert live_process.stdout is not None and live_process.stdin is not None
    live = live_process.stdout.readline().strip()
    CheckpointStore(tmp_path)
    assert not (tmp_path / dead).exists() and (tmp_path / live).exists()
    CheckpointStore(tmp_path, exclusive=True)  # the lock says that nobody else may be writing
    assert not (tmp_path / live).exists()
    live_process.communicate()


def test_prune_keeps_the_newest_the_protected_and_the_only_good_one(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in range(1, 7):
        store.save(f"step-{step}", content(str(step)), step=step)
    (tmp_path / "step-6" / "state.json").write_text("X")
    (tmp_path / "step-5" / "state.json").write_text("X")
    planned = store.prune(keep=1, protect=["step-2"], dry_run=True)
    assert planned == ["step-1", "step-3", "step-5"]
    assert len(store.list()) == 6
    assert store.prune(keep=1, protect=["step-2"]) == planned
    assert names(store) == ["step-2", "step-4", "step-6"]
    latest = store.latest()
    assert latest is not None and latest.name == "step-4"
    with pytest.raises(UsageError, match="keep"):
        store.prune(keep=0)


def test_discard_and_missing_checkpoints(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save("a", content("a"))
    store.discard("a")
    assert store.list() == [] and store.latest() is None
    with pytest.raises(MissingFileError, match="no checkpoint a"):
        store.get("a")
    with pytest.raises(MissingFileError):
        store.discard("a")


def test_a_reader_creates_nothing_and_may_not_save(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "none", writer=False)
    assert store.list() == [] and store.latest() is None and store.problems() == []
    with pytest.raises(UsageError, match="reading only"):
        store.save("a", content("a"))
    assert not (tmp_path / "none").exists()


def test_a_root_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    with pytest.raises(StorageError, match="not a directory"):
        CheckpointStore(tmp_path / "plain" / "below")
    store = CheckpointStore(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(MissingFileError):
        store.save("a", content("a"))
