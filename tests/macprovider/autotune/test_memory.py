"""Predicted memory against what real engines say of themselves and against what real processes take; and that it decides nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from helpers.engine_listener import engine_settings
from helpers.tiny_random import random_gpt2, random_qwen3, save_model
from helpers.tuning import Bench, free_port, wait_until
from macprovider.autotune.candidate.provider import Candidate
from macprovider.autotune.candidate.resident import Peak, family_bytes
from macprovider.autotune.plan import Knobs
from macprovider.autotune.session import serve_argv
from macprovider.autotune.watch import Watch
from macprovider.engines.base import Engine, EngineFacts, KvBits
from macprovider.engines.embedded.engine import TransformersEngine
from macprovider.engines.forecast import predict
from macprovider.engines.predicted import GIB, Predicted
from modelwright.tiny import tiny_model_path

SMALL, MIDDLE, LARGE = "modelwright/tiny-0.4m", "modelwright/tiny-1.5m", "modelwright/tiny-5m"
MIB = 1 << 20


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, monkeypatch, capsys)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are loaded on the processor here."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def loaded(engine: Engine) -> EngineFacts:
    """What an engine has, once it is loaded."""
    try:
        return engine.load()
    finally:
        engine.close()


def agree(predicted: Predicted, facts: EngineFacts, copies: float = 1.0) -> None:
    assert predicted.source == "files" and not predicted.why
    assert predicted.weights_bytes == pytest.approx(copies * facts.weight_bytes, rel=0.03, abs=60_000)  # a file also has its tokenizer
    assert predicted.kv_bytes == pytest.approx(facts.kv_bytes_per_token * facts.context * facts.slots, rel=0.001)


@pytest.mark.parametrize(("model", "kv_bits"), [(SMALL, None), (MIDDLE, 8), (LARGE, 4)])
def test_the_transformers_engine_has_what_was_predicted(model: str, kv_bits: KvBits | None) -> None:
    """The packaged weights lie in 16 bits and are loaded in 32."""
    folder = tiny_model_path(model)
    facts = loaded(TransformersEngine(engine_settings(folder, kv_bits=kv_bits, max_context=400, max_batch=3)))
    found = predict(model, Knobs(kv_bits, 3, 400), 256, "transformers")
    agree(found, facts)
    assert facts.dtype == "float32" and found.loading_bytes == pytest.approx((folder / "model.safetensors").stat().st_size, rel=0.02)
    without = predict(model, Knobs(kv_bits, 3), 400, "transformers")
    assert without == found  # a cap that is not asked for: the cache grows to the target


@pytest.mark.parametrize("make", [random_qwen3, random_gpt2])
def test_other_families_in_32_bits(make: object, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", make())  # type: ignore[operator]
    facts = loaded(TransformersEngine(engine_settings(folder, kv_bits=8, max_context=300, max_batch=1)))
    found = predict(str(folder), Knobs(8, 1, 300), 300, "transformers")
    agree(found, facts)
    assert found.loading_bytes == 0


@pytest.mark.parametrize("kv_bits", [None, 8, 4])
def test_openvino_has_what_was_predicted(kv_bits: KvBits | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino_genai")
    from macprovider.engines.openvino.engine import OpenVinoEngine

    monkeypatch.setenv("HOME", str(tmp_path))
    settings = engine_settings(tiny_model_path(LARGE), kv_bits=kv_bits, max_context=320, max_batch=2, threads=1)
    agree(predict(LARGE, Knobs(kv_bits, 2, 320), 256, "openvino"), loaded(OpenVinoEngine(settings)), copies=5)


def test_the_export_for_llama_server_is_smaller_and_nothing_measured_its_process() -> None:
    found = predict(LARGE, Knobs(None, 1, 400), 256, "llamacpp")
    plain = predict(LARGE, Knobs(None, 1, 400), 256, "transformers")
    assert found.weights_bytes is not None and plain.weights_bytes is not None
    assert 0.25 < found.weights_bytes / plain.weights_bytes < 0.3  # 8.5 of 32 bits, norms and rows that are no multiple of 32 more
    assert found.runtime_bytes is None and "runtime unknown" in found.words()


@pytest.mark.parametrize("engine", ["transformers", "openvino"])
def test_the_peak_of_a_real_candidate(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real `serve`: what is noted at its end is what psutil reads of it, no less than its forecast's order of magnitude."""
    if engine == "openvino":
        pytest.importorskip("openvino_genai")
    monkeypatch.setenv("HOME", str(tmp_path))
    config, port, knobs = tmp_path / "empty.yaml", free_port(), Knobs(None, 1, 256)
    config.write_bytes(b"")
    with Candidate(serve_argv(SMALL, knobs, port, config, engine), port, tmp_path / "log", 10, Watch(300)) as candidate:
        candidate.wait_ready(200)
        facts = candidate.engine_facts()
        resident = psutil.Process(candidate.process.pid).memory_info().rss
    peak, found = candidate.peak.bytes, predict(SMALL, knobs, 256, engine)
    assert peak is not None and 0.95 * resident <= peak <= 1.5 * resident
    assert isinstance(facts, dict) and found.kv_bytes == pytest.approx(facts["kv_bytes_per_token"] * facts["context"], rel=0.001)
    total = found.predicted_bytes
    assert total is not None and 0.6 <= total / peak <= 1.6  # other builds of the libraries take more or less


def test_whatever_a_candidate_starts_counts_with_it(tmp_path: Path) -> None:
    """A grandchild in a session of its own, as an engine's server is."""
    grandchild = "import time; held = bytearray(96 << 20); open('there', 'w').close(); time.sleep(60)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}], start_new_session=True)"
    process = subprocess.Popen([sys.executable, "-c", child], cwd=tmp_path)
    try:
        assert wait_until(lambda: (tmp_path / "there").exists())
        below = psutil.Process(process.pid).children(recursive=True)
        peak = Peak()

        def together() -> bool:
            peak.look(process.pid)
            return (peak.bytes or 0) >= 0.95 * (96 * MIB + psutil.Process(process.pid).memory_info().rss)

        assert wait_until(together)  # what was started a moment ago does not count yet
        assert peak.bytes is not None and peak.bytes <= 1.5 * 96 * MIB
        for other in below:
            other.kill()
        process.wait(20)
        before = peak.bytes
        peak.look(process.pid)
        assert peak.bytes == before and family_bytes(process.pid) == 0
    finally:
        process.kill()
        process.wait()


def test_a_name_tells_the_weights_and_the_words_say_so() -> None:
    found = predict("nobody/there-7B", Knobs(), 2000, "transformers")
    assert (found.source, found.weights_bytes, found.kv_bytes) == ("name", 28_000_000_000, None)
    assert "weights 26 by its name, cache unknown" in found.words(23.4) and found.words(23.4).endswith("; 23 GiB here")
    assert predict("nobody/there-7B-4bit", Knobs(), 2000, "mlx").weights_bytes == 3_500_000_000
    assert predict("nobody/there-7B", Knobs(), 2000, "vllm").weights_bytes == 14_000_000_000
    nothing = predict("nobody/there", Knobs(), 2000, "transformers")
    assert (nothing.source, nothing.predicted_bytes) == (None, None)
    assert nothing.words() == "memory cannot be predicted: its files are not on this machine, and its name does not tell its size"


def test_a_snapshot_counts_when_its_weights_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--some--model-7B" / "snapshots" / ("a" * 40)
    shutil.copytree(tiny_model_path(SMALL), snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(snapshot.name)
    of_files = predict("some/model-7B", Knobs(), 256, "transformers")
    assert of_files == predict(SMALL, Knobs(), 256, "transformers") and of_files.source == "files"
    (snapshot / "model.safetensors").unlink()
    assert predict("some/model-7B", Knobs(), 256, "transformers").source == "name"


FAULTS = {
    "config.json": [b"{broken", b"[]", b"3", b'{"text_config": "x"}', b'{"hidden_size": "wide"}', b"\xff\xfe"],
    "model.safetensors": [b"", b"\xff" * 40, b"\x02\x00\x00\x00\x00\x00\x00\x00[]"],
    "model.safetensors.index.json": [b"{}", b"[1]", b'{"weight_map": {"a": 3}}', b'{"weight_map": {"a": "../gone.safetensors"}}'],
}


@pytest.mark.parametrize(("file", "content"), [(file, content) for file, contents in FAULTS.items() for content in contents])
def test_a_broken_folder_breaks_no_forecast(file: str, content: bytes, tmp_path: Path) -> None:
    for name in ("odd-model", "odd-model-3B"):
        folder = tmp_path / name
        shutil.copytree(tiny_model_path(SMALL), folder)
        if "index" in file:
            (folder / "model.safetensors").unlink()
        (folder / file).write_bytes(content)
        for engine in ("transformers", "openvino", "llamacpp"):
            found = predict(str(folder), Knobs(8, 2, 256), 256, engine)
            assert found.source == ("name" if "3B" in name else None) and "its files cannot be read" in found.why
            assert "\n" not in found.words()


def test_a_head_size_that_cannot_be_quantised_leaves_the_cache_open(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_path(SMALL), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"head_dim": 12}))
    found = predict(str(folder), Knobs(8, 1, 256), 256, "transformers")
    assert found.source == "files" and found.kv_bytes is None and "head_dim" in found.why and "cache unknown" in found.words()


def test_the_words_for_people() -> None:
    found = Predicted(int(0.9 * GIB), int(0.1 * GIB), int(0.2 * GIB), "files")
    assert found.words(23.4) == "predicted memory 1.2 GiB: weights 0.9, cache 0.1, runtime 0.2; 23 GiB here"
    assert found.beside(int(1.1 * GIB)) == "memory 1.1 GiB (predicted 1.2)" and found.beside(None) == ""
    assert Predicted(GIB, 0, 0, "files", GIB // 2).beside(GIB) == "memory 1.0 GiB (predicted 1.0, 1.5 while loading)"
    assert Predicted(2 * GIB, None, None, "name").beside(GIB) == "memory 1.0 GiB (predicted 2.0 without cache and runtime)"
    assert Predicted(GIB, GIB, GIB, "files", on_gpu=True).beside(GIB) == "memory 1.0 GiB without the GPU's"
    assert Predicted(why="nothing is known").beside(GIB) == "memory 1.0 GiB"


def test_a_forecast_decides_nothing_and_is_kept_beside_what_was_measured(bench: Bench) -> None:
    """The first of the list is predicted to be hundreds of times as large as this machine. It is probed first all the same, and taken."""
    huge, small = "o/huge-9000B", "o/small-1B"
    done = bench.tune({}, "--candidate-models", f"{huge},{small}", "--kv-bits-axis", "unset,8")
    assert done.code == 0 and done.document["recommendation"]["model"] == huge and done.document["alternates"] == [small]
    assert [(row["stage"], row["model"]) for row in done.trials] == [(1, huge), (2, huge), (2, huge)]
    assert re.search(r"\[stage 1, 1/2\] o/huge-9000B \(predicted memory \d{5} GiB: weights \d{5} by its name, cache unknown", done.err)
    assert re.search(r"    fits: .* ms, memory [\d.]+ GiB \(predicted \d{5} without cache\)\n", done.err)
    kept = [json.loads(row["measured_json"])["memory"] for row in done.trials]
    assert [cell["memory"] for cell in done.document["cells"]] == kept[1:]
    for memory in kept:
        assert memory["source"] == "name" and memory["kv_bytes"] is None and memory["weights_bytes"] == 36_000 * 10**9
        assert memory["predicted_bytes"] == memory["weights_bytes"] + memory["runtime_bytes"] and memory["gpu_peak_bytes"] is None
        assert MIB < memory["peak_bytes"] < GIB
    told = done.document["recommendation"]
    assert told["memory_predicted_bytes"] == kept[1]["predicted_bytes"]
    assert told["memory_peak_bytes"] in [memory["peak_bytes"] for memory in kept[1:]]


def test_a_candidate_that_dies_or_never_starts_keeps_what_is_known(bench: Bench) -> None:
    gone, dies = "o/gone-7B", "o/dies"
    done = bench.tune({gone: {"pull": 4, "pull_log": "no network"}, dies: {"die_after": 2}}, "--candidate-models", f"{gone},{dies}")
    first, second = (json.loads(row["measured_json"])["memory"] for row in done.trials)
    assert done.code == 3 and (first["source"], first["peak_bytes"]) == ("name", None)
    assert (second["source"], second["predicted_bytes"]) == (None, None) and second["peak_bytes"] > MIB
    assert "does not fit: pre-warm transient: no network\n" in done.err
    assert re.search(r"does not fit: request error: .*, memory \S+ GiB\n|does not fit: provider exited .*, memory \S+ GiB\n", done.err)


def test_the_dry_run_tells_candidates_and_cells_without_loading_anything(bench: Bench) -> None:
    flags = ("--candidate-models", f"nobody/there-7B,{LARGE}", "--target-context", "400", "--max-tokens", "8", "--kv-bits-axis", "unset,4")
    told = bench.command("--dry-run", "--engine", "transformers", *flags).out
    assert re.search(r"  1\. nobody/there-7B  \(predicted memory 26 GiB: weights 26 by its name, cache unknown, .* GiB here\)", told)
    assert re.search(r"  2\. modelwright/tiny-5m  \(predicted memory 0\.4 GiB: weights 0\.02, cache 0\.001, runtime 0\.4; .* here\)", told)
    assert f"(memory as predicted for {LARGE})" in told
    assert len(re.findall(r"  \d\. kv_bits \w+, max_batch [12], max_context 400  \(predicted memory 0\.4 GiB: .*\)", told)) == 4
    unknown = bench.command("--dry-run", "--candidate-models", "nobody/there").out
    assert "memory cannot be predicted" in unknown and "memory as predicted for" not in unknown
    assert not bench.database.exists()
    code = (
        "import sys; from macprovider.autotune_cli import main; "
        f"main(['--dry-run', *{flags!r}]); sys.exit(bool({{'torch', 'transformers', 'openvino'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
