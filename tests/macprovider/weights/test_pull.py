"""`models pull` against a hub over real sockets: ready, every class of failure with its code, resumption, silence when it is there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.hub import Hub, running_hub
from modelwright.tiny import tiny_model_path

ID = "acme/tiny"
BIG = "acme/big"
BIG_BYTES = 12_000_000


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as running:
        running.add(ID, tiny_model_path("tiny-0.4m"))
        running.add(BIG, {**small_files(), "model.safetensors": safetensors(BIG_BYTES)})
        yield running


@pytest.fixture(autouse=True)
def _well_behaved(hub: Hub) -> None:
    hub.behave()


def small_files() -> dict[str, bytes]:
    folder = tiny_model_path("tiny-0.4m")
    return {name: (folder / name).read_bytes() for name in ("config.json", "tokenizer.json", "tokenizer_config.json")}


def safetensors(size: int) -> bytes:
    """A weight file of one tensor of `size` bytes, no two blocks alike."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    data = b"".join(number.to_bytes(8, "big") for number in range(size // 8))
    return len(header).to_bytes(8, "little") + header + data


def models(hub: Hub, home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "macprovider.cli", "models", *arguments],
        env={**hub.environment(home), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip().splitlines()[-1]


def folder_of(home: Path, model: str) -> Path:
    return home / "hub" / f"models--{model.replace('/', '--')}"


def blob_of(home: Path, model: str, file: str) -> Path:
    return next(folder_of(home, model).glob(f"snapshots/*/{file}")).resolve()


@pytest.fixture
def pulled(hub: Hub, tmp_path: Path) -> Path:
    """A home whose cache has the model."""
    done = models(hub, tmp_path, "pull", ID)
    assert done.returncode == 0, done.stderr
    hub.behave()
    return tmp_path


def test_a_pulled_model_is_byte_for_byte_the_hubs_and_loads_offline(hub: Hub, pulled: Path) -> None:
    for name, data in hub.repositories[ID].files.items():
        if name.endswith((".json", ".safetensors", ".jinja")):
            assert blob_of(pulled, ID, name).read_bytes() == data
    assert not list(folder_of(pulled, ID).glob("snapshots/*/README.md"))  # what no runtime reads is not fetched
    script = f"from modelwright.loading import *; print(materialise(resolve_model({ID!r}, offline=True)))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], env=hub.environment(pulled) | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=True
    )
    assert Path(loaded.stdout.strip()).parent.name == "snapshots"
    assert hub.requests == []


def test_a_cached_model_is_checked_without_a_connection(hub: Hub, pulled: Path) -> None:
    for extra in ([], ["--offline"], ["--revision", "main"], ["--revision", hub.repositories[ID].commit]):
        done = models(hub, pulled, "pull", ID, *extra)
        assert done.returncode == 0, done.stderr
        assert "nothing to fetch" in done.stdout
    assert hub.requests == []


def test_offline_and_not_cached_is_transient_without_a_connection(hub: Hub, tmp_path: Path) -> None:
    for arguments, environment in ((["--offline"], {}), ([], {"HF_HUB_OFFLINE": "1"})):
        done = models(hub, tmp_path, "pull", ID, *arguments, **environment)
        assert done.returncode == 4
        assert "offline" in last_line(done)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"status": 404, "code": "RepoNotFound"}, "no repository"),
        ({"status": 401, "code": "GatedRepo"}, "gated"),
        ({"status": 403, "code": "GatedRepo"}, "gated"),
        ({"status": 401}, "credentials"),
        ({"status": 429, "headers": {"Retry-After": "17"}}, "in 17 s"),
        ({"status": 503}, "HTTP 503"),
        ({"status": 404, "code": "RevisionNotFound"}, "--revision"),
    ],
)
def test_a_refusal_is_transient_and_named(hub: Hub, tmp_path: Path, how: dict[str, object], words: str) -> None:
    hub.behave(**how)
    done = models(hub, tmp_path, "pull", ID)
    assert done.returncode == 4, done.stderr
    assert words in last_line(done)
    assert "Traceback" not in done.stderr


def test_weights_that_are_refused_are_transient(hub: Hub, tmp_path: Path) -> None:
    hub.behave(on=r"\.safetensors$", status=403, code="GatedRepo")
    done = models(hub, tmp_path, "pull", ID)
    assert done.returncode == 4
    assert "gated" in last_line(done)


def test_a_silent_hub_is_transient(hub: Hub, tmp_path: Path) -> None:
    hub.behave(hang_s=3)
    done = models(hub, tmp_path, "pull", ID, "--timeout", "0.3")
    assert done.returncode == 4
    assert "in time" in last_line(done)


def test_no_network_is_transient(hub: Hub, tmp_path: Path) -> None:
    done = models(hub, tmp_path, "pull", ID, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 4
    assert "cannot be reached" in last_line(done)
    done = models(hub, tmp_path, "pull", ID, HF_ENDPOINT="http://hub.invalid")
    assert done.returncode == 4
    assert "cannot be reached" in last_line(done)


def test_a_disk_that_is_too_small_is_transient_before_anything_is_fetched(hub: Hub, tmp_path: Path) -> None:
    repository = hub.repositories[BIG]
    repository.listed = {"model.safetensors": 10**17}
    try:
        done = models(hub, tmp_path, "pull", BIG)
    finally:
        repository.listed = {}
    assert done.returncode == 4
    assert "free" in last_line(done)
    assert "model.safetensors" not in hub.served


def test_a_disk_that_fills_up_is_transient_and_keeps_what_came(hub: Hub, tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000));"
        f"from macprovider.models_cli import main; sys.exit(main(['pull', {BIG!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=hub.environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert "disk is full" in last_line(done)
    assert next(folder_of(tmp_path, BIG).glob("blobs/*.incomplete")).stat().st_size > 3_000_000
    assert models(hub, tmp_path, "pull", BIG).returncode == 0


def test_a_cut_is_survived_inside_one_pull(hub: Hub, tmp_path: Path) -> None:
    hub.behave(on=r"\.safetensors$", cut_after=5_000_000, cuts=2)
    done = models(hub, tmp_path, "pull", BIG)
    assert done.returncode == 0, done.stderr
    assert blob_of(tmp_path, BIG, "model.safetensors").read_bytes() == hub.repositories[BIG].files["model.safetensors"]
    assert hub.served["model.safetensors"] < 1.2 * BIG_BYTES


def test_cuts_without_end_are_transient_and_the_next_pull_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.behave(on=r"\.safetensors$", cut_after=0)
    done = models(hub, tmp_path, "pull", BIG)
    assert done.returncode == 4, done.stderr
    assert "cut" in last_line(done)
    assert models(hub, tmp_path, "list", "--json").returncode == 0


def test_a_killed_pull_is_resumed_by_a_range_request(hub: Hub, tmp_path: Path) -> None:
    for number, code in ((signal.SIGTERM, 130), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        hub.behave(on=r"\.safetensors$", bytes_per_s=6_000_000)
        partial = folder_of(tmp_path, BIG) / "blobs" / f"{hub.repositories[BIG].digest('model.safetensors')}.incomplete"
        before = partial.stat().st_size if partial.exists() else 0
        child = subprocess.Popen(
            [sys.executable, "-m", "macprovider.cli", "models", "pull", BIG],
            env=hub.environment(tmp_path),
            stderr=subprocess.PIPE,
            text=True,
        )
        while child.poll() is None and (not partial.exists() or partial.stat().st_size < before + 1_000_000):
            time.sleep(0.02)
        child.send_signal(number)
        _, errors = child.communicate(timeout=30)
        assert child.returncode == code, errors
        assert "Traceback" not in errors
        assert partial.stat().st_size >= before + 1_000_000
    kept = partial.stat().st_size
    hub.behave()
    assert models(hub, tmp_path, "list").stdout.count("incomplete") == 1
    assert models(hub, tmp_path, "pull", BIG, "--offline").returncode == 4
    done = models(hub, tmp_path, "pull", BIG)
    assert done.returncode == 0, done.stderr
    assert ("GET", f"/{BIG}/resolve/{hub.repositories[BIG].commit}/model.safetensors", f"bytes={kept}-") in hub.requests
    assert models(hub, tmp_path, "verify", BIG).returncode == 0


def test_a_spoilt_partial_file_is_fetched_anew_and_blames_nobody(hub: Hub, tmp_path: Path) -> None:
    blobs = folder_of(tmp_path, BIG) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hub.repositories[BIG].digest('model.safetensors')}.incomplete").write_bytes(b"x" * 1000)
    assert models(hub, tmp_path, "pull", BIG).returncode == 0


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_wrong_bytes_are_an_integrity_failure_and_are_not_kept(hub: Hub, tmp_path: Path, file: str) -> None:
    hub.behave(on=f"{file}$", corrupt=True)
    done = models(hub, tmp_path, "pull", ID)
    assert done.returncode == 7, done.stderr
    assert file in last_line(done)
    hub.behave()
    assert models(hub, tmp_path, "pull", ID).returncode == 0


def test_a_file_of_another_size_than_listed_is_an_integrity_failure(hub: Hub, tmp_path: Path) -> None:
    repository = hub.repositories[ID]
    repository.listed = {"model.safetensors": len(repository.files["model.safetensors"]) + 5}
    try:
        done = models(hub, tmp_path, "pull", ID)
    finally:
        repository.listed = {}
    assert done.returncode == 7, done.stderr
    assert "bytes" in last_line(done)


@pytest.mark.parametrize("omitted", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_repository_without_a_required_file_is_an_integrity_failure_before_weights_are_fetched(
    hub: Hub, tmp_path: Path, omitted: str
) -> None:
    files = dict(hub.repositories[ID].files)
    del files[omitted]
    hub.add("acme/partial", files)
    done = models(hub, tmp_path, "pull", "acme/partial")
    assert done.returncode == 7
    assert omitted in last_line(done)
    assert hub.served == {}


def test_a_damaged_header_is_an_integrity_failure(hub: Hub, tmp_path: Path) -> None:
    hub.add("acme/headless", {**small_files(), "model.safetensors": b"\xff" * 4000})
    done = models(hub, tmp_path, "pull", "acme/headless")
    assert done.returncode == 7
    assert "header" in last_line(done)


def test_a_shard_of_the_index_that_the_commit_lacks_is_an_integrity_failure(hub: Hub, tmp_path: Path) -> None:
    index = {"metadata": {}, "weight_map": {"w": "model-00001-of-00002.safetensors", "v": "model-00002-of-00002.safetensors"}}
    shard = {"model-00001-of-00002.safetensors": safetensors(800)}
    hub.add("acme/sharded", {**small_files(), "model.safetensors.index.json": json.dumps(index).encode(), **shard})
    done = models(hub, tmp_path, "pull", "acme/sharded")
    assert done.returncode == 7
    assert "model-00002-of-00002.safetensors" in last_line(done)


def test_a_corrupted_blob_is_found_by_verify_and_by_pull_and_repaired_as_they_say(hub: Hub, pulled: Path) -> None:
    blob = blob_of(pulled, ID, "model.safetensors")
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    for command in ("pull", "verify"):
        done = models(hub, pulled, command, ID)
        assert done.returncode == 7, (command, done.stderr)
        assert "SHA-256" in done.stdout + done.stderr and str(blob) in done.stdout + done.stderr
    found = json.loads(models(hub, pulled, "verify", "--all", "--json").stdout)
    assert [entry["id"] for entry in found if not entry["whole"]] == [ID]
    assert hub.requests == []
    blob.unlink()
    done = models(hub, pulled, "pull", ID)
    assert done.returncode == 0, done.stderr
    assert set(hub.served) == {"model.safetensors"}


def test_a_truncated_blob_is_found_by_its_size(hub: Hub, pulled: Path) -> None:
    blob = blob_of(pulled, ID, "model.safetensors")
    os.truncate(blob, blob.stat().st_size - 1)
    done = models(hub, pulled, "pull", ID, "--offline")
    assert done.returncode == 7
    assert "bytes" in last_line(done)


def test_a_file_deleted_from_the_cache_comes_back_alone(hub: Hub, pulled: Path) -> None:
    blob_of(pulled, ID, "tokenizer.json").unlink()
    assert models(hub, pulled, "pull", ID, "--offline").returncode == 4
    assert models(hub, pulled, "pull", ID).returncode == 0
    assert set(hub.served) == {"tokenizer.json"}


def test_two_pulls_at_once_both_succeed(hub: Hub, tmp_path: Path) -> None:
    hub.behave(on=r"\.safetensors$", bytes_per_s=20_000_000)
    command = [sys.executable, "-m", "macprovider.cli", "models", "pull", BIG]
    children = [subprocess.Popen(command, env=hub.environment(tmp_path), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
    assert hub.served["model.safetensors"] == len(hub.repositories[BIG].files["model.safetensors"])


def test_packaged_models_and_folders_are_ready_at_once(hub: Hub, tmp_path: Path) -> None:
    for name in ("modelwright/tiny-0.4m", str(tiny_model_path("tiny-0.4m"))):
        done = models(hub, tmp_path, "pull", name)
        assert done.returncode == 0, done.stderr
    assert hub.requests == []


@pytest.mark.parametrize("name", ["modelwright/tiny-9m", "a/b/c", "no id at all", "/nowhere/at/all"])
def test_a_name_that_is_no_model_is_a_usage_error(hub: Hub, tmp_path: Path, name: str) -> None:
    done = models(hub, tmp_path, "pull", name)
    assert done.returncode == 2
    assert hub.requests == []
