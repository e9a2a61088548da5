"""Whole runs over real `serve` processes with the packaged tiny model: acceptance criteria that a scripted child alone would not prove
(specification 13).
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from helpers.tuning import Bench, Tuned, wait_until
from macprovider.autotune.arguments import parse
from macprovider.autotune.candidate.ports import port_free
from macprovider.autotune.plan import Knobs
from macprovider.autotune.run import tune
from macprovider.autotune.session import World, pull_argv, serve_argv

SMALL, MISSING = "modelwright/tiny-0.4m", "nobody/there-7B"


class Listener:
    """A coordinator that only counts who connects."""

    def __init__(self) -> None:
        self.connections = 0
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def coordinator() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, monkeypatch, capsys)


def real(bench: Bench, argvs: list[list[str]], *flags: str) -> Tuned:
    """A run whose candidates are real; other tests' servers on this machine are not in its way."""

    def serve(model: str, knobs: Knobs, port: int, config: Path, engine: str) -> list[str]:
        argvs.append(serve_argv(model, knobs, port, config, engine))
        return argvs[-1]

    world = World(serve, pull_argv, conflicts=lambda port: [])
    return bench.outcome(tune(parse(bench.flags(*flags))[0], world))


@pytest.mark.parametrize("engine", ["transformers", "openvino"])
def test_ac1_ac7_ac8_ac11_ac16_over_real_providers(
    engine: str, bench: Bench, coordinator: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is not here, then one that fits: its rows, its document, no connection to the operator's coordinator."""
    monkeypatch.setenv("MACPROVIDER_COORDINATOR_URL", f"ws://127.0.0.1:{coordinator.port}/ws")
    monkeypatch.setenv("MACPROVIDER_KV_BITS", "4")
    argvs: list[list[str]] = []
    listed = ("--candidate-models", f"{MISSING},{SMALL},modelwright/tiny-0.1m")
    done = real(bench, argvs, *listed, "--engine", engine, "--max-tokens", "16", "--stage2-replicates", "2")
    assert done.code == 0, done.err
    assert done.document["recommendation"]["model"] == SMALL
    assert done.document["recommendation"]["knobs"] == {"kv_bits": None, "max_concurrency_override": 1, "max_context_override": 256}
    assert done.document["infeasible"][0]["model"] == MISSING
    assert done.document["infeasible"][0]["reason"].startswith("pre-warm transient: ")
    assert done.document["alternates"] == ["modelwright/tiny-0.1m"]
    assert [(row["stage"], row["model"], row["fits"]) for row in done.trials] == [(1, MISSING, 0), (1, SMALL, 1), (2, SMALL, 1)]
    assert all("--no-join" in argv for argv in argvs) and len(argvs) == 2 and coordinator.connections == 0
    facts = [json.loads(row["measured_json"])["engine"] for row in done.trials if row["fits"]]
    assert [found["slots"] for found in facts] == [1, 1] and all(found["kv_bits"] is None for found in facts)
    assert all(found["engine"] == engine for found in facts) and done.document["engine"] == engine
    assert all(row["measured_prompt_tokens"] + 16 <= 256 for row in done.trials if row["fits"])
    assert all(row["measured_prompt_tokens"] >= 0.85 * 240 for row in done.trials if row["fits"])
    assert port_free(bench.port) and _no_candidate(bench)


@pytest.mark.slow
def test_the_quality_gate_refuses_what_answers_otherwise_and_only_that(bench: Bench) -> None:
    """tiny-5m at 480 tokens: with 8 bits it says what it says without quantisation, with 4 bits it does not."""
    flags = ("--candidate-models", "modelwright/tiny-5m", "--target-context", "480", "--max-tokens", "8", "--kv-bits-axis", "8,4")
    done = real(bench, [], *flags, "--quality-gate", "--min-agreement", "0.8", "--max-kl", "0.01")
    eight, four = (row for row in done.trials if row["stage"] == 2)
    assert (done.code, eight["fits"], four["fits"]) == (0, 1, 0), done.err
    found = {row["kv_bits"]: json.loads(row["measured_json"])["quality"] for row in (eight, four)}
    assert found[8]["prompts"] == 12 and found[8]["agreement"] >= 0.8 and 0 <= found[8]["kl"] <= 0.01 and found[8]["compared"] > 12
    assert found[4]["agreement"] < 0.8 and found[4]["kl"] > found[8]["kl"]
    assert [cell["quality"] for cell in done.document["cells"]] == [found[8], found[4]]
    assert four["notes"].startswith(f"quality below the gate: {found[4]['same']} of 12 greedy answers the same, KL at least ")
    assert done.document["recommendation"]["knobs"]["kv_bits"] == 8
    assert done.document["recommendation"]["quality"]["agreement"] == found[8]["agreement"] and "  quality:  " in done.out


@pytest.mark.slow
def test_ac18_context_cells_of_a_real_provider(bench: Bench) -> None:
    """Two context caps and two KV settings: every cell's knobs are read back from the engine."""
    argvs: list[list[str]] = []
    done = real(
        bench, argvs, "--candidate-models", SMALL, "--max-context-axis", "256,400", "--kv-bits-axis", "unset,8", "--max-tokens", "16"
    )
    cells = [row for row in done.trials if row["stage"] == 2]
    assert [(row["kv_bits"], row["max_context_cap"]) for row in cells] == [(None, 256), (None, 400), (8, 256), (8, 400)]
    assert [row["fits"] for row in cells] == [1, 1, 1, 1], [row["notes"] for row in cells]
    assert [json.loads(row["measured_json"])["engine"]["kv_bits"] for row in cells] == [None, None, 8, 8]
    assert done.code == 0 and done.document["recommendation"]["knobs"]["max_context_override"] in (256, 400)


@pytest.mark.slow
def test_a_target_beyond_the_model_is_infeasible_with_a_reason(bench: Bench) -> None:
    done = real(bench, [], "--candidate-models", SMALL, "--target-context", "100000", "--max-tokens", "16")
    assert done.code == 3 and done.document["recommendation"] is None
    assert done.trials[0]["notes"]


def _no_candidate(bench: Bench) -> bool:
    def none() -> bool:
        return not [p for p in psutil.process_iter(["cmdline"]) if str(bench.port) in (p.info["cmdline"] or ())]

    return wait_until(none)
