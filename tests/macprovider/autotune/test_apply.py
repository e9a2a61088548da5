"""`--apply`: four keys change, everything else stays byte for byte, and no moment shows anything but the old or the new file."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from helpers.settings_file import FIRST, OPERATOR, UNSET, written
from macprovider.autotune.config_file.apply import ApplyError, Recommended, apply_recommendation
from macprovider.settings import load_settings
from modelwright.errors import StorageError

# --- backups, modes, links


def test_backups_of_one_second_get_different_counters(tmp_path: Path) -> None:
    path = written(tmp_path, OPERATOR)
    (tmp_path / "config.yaml.bak-1700000000-1").write_text("taken")
    first = apply_recommendation(path, FIRST, now=lambda: 1700000000.9)
    middle = path.read_bytes()
    second = apply_recommendation(path, FIRST, now=lambda: 1700000000.1)
    assert [first.backup, second.backup] == [tmp_path / f"config.yaml.bak-1700000000-{n}" for n in (0, 2)]
    assert first.backup and first.backup.read_bytes() == OPERATOR.encode()
    assert second.backup and second.backup.read_bytes() == middle == path.read_bytes()
    assert (tmp_path / "config.yaml.bak-1700000000-1").read_text() == "taken"
    assert first.changed == ("model", "kv_bits", "max_concurrency_override", "max_context_override") and second.changed == ()
    loaded = load_settings({}, config=str(path), environ={}).settings
    assert (loaded.model, loaded.kv_bits, loaded.max_context, loaded.max_batch) == (FIRST.model, 4, 4000, 2)
    assert len(os.listdir(tmp_path)) == 4, "a temporary file was left"


def test_no_backup_name_left_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("macprovider.autotune.config_file.apply.BACKUPS_PER_SECOND", 3)
    path = written(tmp_path, OPERATOR)
    for number in range(3):
        (tmp_path / f"config.yaml.bak-5-{number}").touch()
    with pytest.raises(ApplyError, match="all 3 backup names"):
        apply_recommendation(path, FIRST, now=lambda: 5.0)
    assert path.read_text() == OPERATOR and len(os.listdir(tmp_path)) == 4


def test_line(tmp_path: Path) -> None:
    path = written(tmp_path, OPERATOR)
    assert apply_recommendation(path, UNSET, now=lambda: 7.0).line() == (
        "applied: model=org/Model-7B-4bit kv_bits=unset max_concurrency_override=1 max_context_override=8000 "
        f"(backup at {tmp_path / 'config.yaml.bak-7-0'})"
    )


def test_new_file_is_private_and_has_no_backup(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "config.yaml"
    done = apply_recommendation(path, UNSET)
    assert done.backup is None and os.listdir(path.parent) == ["config.yaml"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == "model: org/Model-7B-4bit\nmax_concurrency_override: 1\nmax_context_override: 8000\n"
    assert "no backup" in done.line()


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o400])
def test_mode_is_kept_and_backups_are_private(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path, OPERATOR)
    path.chmod(mode)
    old_mask = os.umask(0o077)
    try:
        done = apply_recommendation(path, FIRST)
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert done.backup and stat.S_IMODE(done.backup.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_owner_is_kept(tmp_path: Path) -> None:
    path = written(tmp_path, OPERATOR)
    os.chown(path, 1234, 4321)
    apply_recommendation(path, FIRST)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    dotfiles, config = tmp_path / "dotfiles", tmp_path / "config"
    dotfiles.mkdir()
    config.mkdir()
    real = written(dotfiles, OPERATOR, "provider.yaml")
    link = config / "config.yaml"
    link.symlink_to("../dotfiles/provider.yaml")
    done = apply_recommendation(link, FIRST)
    assert link.is_symlink() and done.path == real and done.backup and done.backup.parent == dotfiles
    assert yaml.safe_load(real.read_text())["kv_bits"] == 4 and os.listdir(config) == ["config.yaml"]


def test_links_in_a_circle_and_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises((ApplyError, StorageError)):
        apply_recommendation(tmp_path / "a", FIRST)
    with pytest.raises((ApplyError, StorageError)):
        apply_recommendation(tmp_path, FIRST)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ApplyError, match="no regular file"):
        apply_recommendation(tmp_path / "pipe", FIRST)


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "config.yaml"
    apply_recommendation(path, FIRST)
    first = path.read_bytes()
    done = [apply_recommendation(path, UNSET, now=lambda: 3.0), apply_recommendation(path, UNSET, now=lambda: 3.0)]
    assert [one.backup for one in done] == [tmp_path / "config.yaml.bak-3-0", tmp_path / "config.yaml.bak-3-1"]
    assert done[0].backup and done[0].backup.read_bytes() == first
    assert len(os.listdir(tmp_path)) == 3


def test_leftovers_of_a_killed_apply_are_removed(tmp_path: Path) -> None:
    path = written(tmp_path, OPERATOR)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine, theirs = tmp_path / f".config.yaml.{gone.pid}-77.tmp", tmp_path / f".config.yaml.{os.getpid()}-77.tmp"
    mine.touch()
    theirs.touch()
    apply_recommendation(path, FIRST)
    assert not mine.exists() and theirs.exists(), "only what no living process works on may go"


# --- full disks and kills


def test_a_file_that_cannot_grow_leaves_the_old_one(tmp_path: Path) -> None:
    path = written(tmp_path, OPERATOR + "# " + "x" * 4000 + "\n")
    before = path.read_bytes()
    for limit in (0, 1, 100, 4090, len(before)):
        child = subprocess.run(
            [sys.executable, "-c", LIMITED, str(path), str(limit)], capture_output=True, text=True, check=False, env=dict(os.environ)
        )
        assert child.returncode == 8, child.stderr
        assert "file size limit" in child.stderr and str(path) in child.stderr
        assert path.read_bytes() == before
        assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")], "a torn temporary file stayed"


LIMITED = """
import resource, signal, sys
from pathlib import Path
from macprovider.autotune.config_file.apply import Recommended, apply_recommendation
from modelwright.errors import ModelwrightError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.dont_write_bytecode = True
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    apply_recommendation(Path(sys.argv[1]), Recommended("org/a-much-longer-name-than-the-old-one", 4, 123456, 3))
except ModelwrightError as error:
    print(error, file=sys.stderr)
    sys.exit(8)
"""

AGAIN_AND_AGAIN = """
import sys
from itertools import cycle
from pathlib import Path
from macprovider.autotune.config_file.apply import Recommended, apply_recommendation
print("ready", flush=True)
for values in cycle([Recommended("a/first-1B", 4, 4000, 1), Recommended("a/second-model-with-a-longer-name", None, 8000, 2)]):
    apply_recommendation(Path(sys.argv[1]), values)
"""


def test_sigkill_at_any_moment_leaves_old_or_new(tmp_path: Path) -> None:
    path = written(tmp_path, OPERATOR + "".join(f"# {n} {'·' * 60}\n" for n in range(400)))
    original = path.read_bytes()
    apply_recommendation(path, Recommended("a/first-1B", 4, 4000, 1))
    first = path.read_bytes()
    apply_recommendation(path, Recommended("a/second-model-with-a-longer-name", None, 8000, 2))
    second = path.read_bytes()
    apply_recommendation(path, Recommended("a/first-1B", 4, 4000, 1))
    back = path.read_bytes()
    allowed = {original, first, second, back}
    dice = random.Random(4)
    seen: set[bytes] = set()
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", AGAIN_AND_AGAIN, str(path)], stdout=subprocess.PIPE) as child:
            assert child.stdout and child.stdout.readline()
            last, changes = path.read_bytes(), dice.randint(1, 3)
            while changes:
                content = path.read_bytes()
                seen.add(content)
                changes -= content != last
                last = content
            time.sleep(dice.uniform(0.0, 0.05))
            child.send_signal(signal.SIGKILL)
        seen.add(path.read_bytes())
    assert seen <= allowed and len(seen) > 1
    backups = [entry for entry in tmp_path.iterdir() if ".bak-" in entry.name]
    assert len(backups) >= 8
    assert all(backup.read_bytes() in allowed for backup in backups), "a kill left a torn backup"
    done = apply_recommendation(path, FIRST)
    assert yaml.safe_load(path.read_bytes())["model"] == FIRST.model and done.backup
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
