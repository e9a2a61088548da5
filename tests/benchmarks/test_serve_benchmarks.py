"""The serving benchmarks: their targets, their pages, and one of them for real, at its smallest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks.serve_common.load import prompt
from benchmarks.serve_common.page import engine_page, http_page, peers_page, quality_page
from benchmarks.serve_engine.run import decide as decide_engine
from benchmarks.serve_http.run import main as http
from benchmarks.serve_peers.run import OURS, PEERS, decide

from modelwright.files import read_json


def row(server: str, clients: int, rate: float, memory: float, first: float) -> dict[str, Any]:
    return {
        "server": server,
        "clients": clients,
        "tokens_per_cpu_s": rate,
        "spread_tokens_per_cpu_s": [rate - 1, rate + 1],
        "tokens_per_s": rate,
        "first_median_s": first,
        "first_p95_s": first,
        "prompt_tokens": 300,
        "memory_mb": memory,
    }


def test_the_better_way_of_the_peer_is_the_one_to_beat() -> None:
    rows = [row(OURS, 8, 150, 500, 1.0), row(PEERS[0], 8, 100, 1500, 2.0), row(PEERS[1], 8, 60, 900, 0.9), row(OURS, 1, 1, 1, 1)]
    found = decide(rows)
    assert [(one["measured"], one["met"]) for one in found] == [(1.5, True), (0.33, True), (1.11, False)]
    assert decide([row(OURS, 8, 150, 500, 1.0)]) == [], "nothing is decided without a peer"
    result = {"results": rows, "decisions": found, "left_out": ["llama-server: not installed"], "settings": {"max_tokens": 64}}
    text = "\n".join(peers_page(result))
    assert "| transformers serve | 60 (59 to 61) | 60 | 0.90 / 0.90 | 900 |" in text and "1.11, target below 1: **missed**" in text
    assert "8 clients, prompts of 300 to 300 tokens, 64 answered:" in text and "1 client, " in text
    assert "- llama-server: not installed" in text


@pytest.mark.parametrize(("measured", "met"), [(0.85, True), (0.849, False)])
def test_the_target_of_the_quantised_cache(measured: float, met: bool) -> None:
    shared = {"context": 512, "batch": 1, "tokens_per_cpu_second": 100.0, "lowest": 90.0, "highest": 110.0}
    rows = [shared | {"variant": "8 bits", "against_16_bits": measured, "kv_bytes": 4_000_000, "kv_bytes_per_token": 1200.0}]
    found = decide_engine(rows)
    assert found[0]["met"] is met
    text = "\n".join(engine_page({"results": rows, "decisions": found}))
    assert f"| 512 | 1 | 8 bits | 100 (90 to 110) | {measured:.2f} | 4.0 | 1,200 |" in text


def test_prompts_begin_differently_and_are_the_same_every_time() -> None:
    assert prompt(20, 7) == prompt(20, 7) and len({prompt(20, seed)[:4] for seed in range(1000, 1050)}) > 10
    assert len(prompt(20, 7).split()) == 22


def test_the_server_and_its_bare_engine_answer_the_same_tokens(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    assert http(["--quick", "--clients", "2", "--folder", str(tmp_path), "--out", str(out)]) in (0, 1)
    result = read_json(out)
    assert [one["way"] for one in result["results"]] == ["bare", "server"]
    assert {one["tokens"] for one in result["results"]} == {2 * 2 * 8} and all(one["cpu_s"] > 0 for one in result["results"])
    ratio = result["results"][1]["tokens_per_cpu_s"] / result["results"][0]["tokens_per_cpu_s"]
    assert result["ratios"]["tokens_per_cpu_s"]["median"] == pytest.approx(ratio, abs=1e-3)
    assert "2 streaming clients, model of 3M, 1 turns of each." in "\n".join(http_page(result))


def test_the_quality_table_names_every_cache() -> None:
    plain = {"engine": "transformers", "dtype": "float32", "cache": "unquantised", "bytes_per_token": 3840.0}
    nothing = dict.fromkeys(("agreement", "kept", "kl", "agreement_16", "kept_16"))
    eight = {"cache": "8 bits", "bytes_per_token": 1520.0, "agreement": 0.979, "kept": 0.984, "kl": 0.00004, "agreement_16": 0.979}
    settings = {"model": "m", "prompts": 48, "context": 480}
    result = {
        "results": [plain | nothing, plain | nothing | eight],
        "settings": settings,
        "left_out": ["llamacpp: not installed, left out"],
    }
    text = "\n".join(quality_page(result))
    assert "| transformers | float32 | unquantised | 3,840 | – | – | – | – |" in text
    assert "| transformers | float32 | 8 bits | 1,520 | 98 % | 98 % | 0.0000 | 98 % |" in text and "- llamacpp: not installed" in text
