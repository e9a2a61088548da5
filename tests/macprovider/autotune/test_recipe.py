"""`recipe_hash` against the reference vectors of the specification (9.3) and a second, independent serialisation."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macprovider.autotune.plan import Knobs
from macprovider.autotune.records.machine import Machine
from macprovider.autotune.records.recipe import canonical, recipe, recipe_hash
from macprovider.autotune.records.recommendation import hash_of
from macprovider.weights.candidates import built_in

MODELS = [candidate.id for candidate in built_in("mlx")]
MACHINE = Machine(16, "Apple M2", "macOS 26.3.1", "1.4.0")
RECOMMENDED: dict[str, Any] = {
    "model": "mlx-community/Qwen2.5-Coder-7B-Instruct-4bit",
    "target_context": 4000,
    "knobs": {"kv_bits": 4, "max_concurrency_override": 1, "max_context_override": 4000},
    "tps_median": 2.3,
    "ttft_p95_ms": 18900.0,
}
VECTORS = {
    "as written": ({}, {}, "c85139bfbff73a0a21e8a1068fe71d1cf2e7ffb70c26184666dbd9f119e04bfc"),
    "kv_bits null": ({"kv_bits": None}, {}, "94ca253b4e603b552aa057218e11aa3620e1666f376d9b07ac396dd8a144ff9f"),
    "ram_gb 8": ({}, {"ram_gb": 8}, "6cab91f3ddd7211cc4cc2d9ef244b1d81981103484fb1ec1baaa647b36968db2"),
    "binary 1.4.1": ({}, {"binary_version": "1.4.1"}, "f06894b906b5ed84db53888b8d450d97a0f983fd857d7a3d7f7e104a604bbec9"),
}


@pytest.mark.parametrize("name", VECTORS)
def test_ac12_reference_vectors(name: str) -> None:
    knobs, machine, digest = VECTORS[name]
    recommended = RECOMMENDED | {"knobs": RECOMMENDED["knobs"] | knobs}
    assert hash_of(recommended, MODELS, replace(MACHINE, **machine)) == f"sha256:{digest}"


def test_ac12_measured_values_do_not_count() -> None:
    other = RECOMMENDED | {"tps_median": 9.9, "ttft_p95_ms": 1.0, "replicates": 7, "partial": True, "serve_command": "x"}
    assert hash_of(other, MODELS, replace(MACHINE, os_version="another")) == hash_of(RECOMMENDED, MODELS, MACHINE)


def test_the_order_of_candidates_counts() -> None:
    assert hash_of(RECOMMENDED, MODELS[::-1], MACHINE) != hash_of(RECOMMENDED, MODELS, MACHINE)


def test_canonical_text_has_the_length_the_specification_gives() -> None:
    members = recipe(
        binary_version="1.4.0", candidate_models=MODELS, chip="Apple M2", knobs=Knobs(4, 1, 4000), model=MODELS[2], ram_gb=16,
        target_context=4000,
    )  # fmt: skip
    assert len(canonical(members)) == 450


@given(st.lists(st.text(), max_size=4), st.text(), st.integers(1, 4096), st.sampled_from([4, 8, None]))
def test_ac12_agrees_with_another_serialisation(models: list[str], chip: str, ram_gb: int, kv_bits: int | None) -> None:
    members = recipe(
        binary_version="1.4.0", candidate_models=models, chip=chip, knobs=Knobs(kv_bits, 1, 4000), model="m", ram_gb=ram_gb,
        target_context=4000,
    )  # fmt: skip
    plain = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    found = recipe_hash(members)
    assert found == "sha256:" + hashlib.sha256(plain).hexdigest()
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", found)


def test_an_operator_is_known_by_what_it_is_and_not_by_where_it_lies() -> None:
    def members(repair: str | None, operator: str | None) -> dict[str, Any]:
        return recipe(
            binary_version="1.4.0", candidate_models=MODELS, chip="c", knobs=Knobs(4, 1, 4000, repair), model="m", ram_gb=16,
            target_context=4000, operator=operator,
        )  # fmt: skip

    plain = members(None, None)
    assert members("/a/x.pt", "11") == members("/b/y.pt", "11") != members("/a/x.pt", "22")
    assert members("/a/x.pt", None) == plain and members("/a/x.pt", "11")["knobs"] == plain["knobs"] | {"repair": "11"}
