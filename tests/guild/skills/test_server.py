"""The skill API over a real socket: the contract, every bad input, and who may ask."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guild.skills.binary.skill import BinarySkill
from helpers.guild_skill_server import SkillServer, skill_server
from helpers.raw_http import call, get


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SkillServer]:
    with skill_server("bin", base=tmp_path_factory.mktemp("base")) as running:
        yield running


def generate(server: SkillServer, body: Any, **headers: str) -> tuple[int, Any]:
    return call("POST", f"{server.url}/generate", body, headers)[:2]


def test_health_info_and_levels(server: SkillServer) -> None:
    status, health = get(f"{server.url}/health")
    assert status == 200 and health["status"] == "ok"
    _, info = get(f"{server.url}/info")
    assert (info["id"], info["max_level"], info["generator_id"], info["version"]) == ("bin", 30, "bin_api", BinarySkill.version)
    _, levels = get(f"{server.url}/levels")
    assert [level["level"] for level in levels["levels"]] == list(range(1, 31))
    assert levels["levels"][29]["bits"] == 32


def test_a_batch_is_what_the_skill_makes_of_the_same_seed(server: SkillServer) -> None:
    status, batch = generate(server, {"level": 9, "count": 50, "seed": 7})
    assert status == 200
    assert (batch["count"], batch["level"], batch["seed"], batch["level_info"]["bits"]) == (50, 9, 7, 10)
    expected = [sample.as_dict() for sample in BinarySkill().generate(9, 50, 7)]
    assert batch["samples"] == json.loads(json.dumps(expected))
    assert {"id", "user_prompt", "assistant_response", "tags", "rubric", "scenario"} <= batch["samples"][0].keys()
    assert generate(server, {"level": 9, "count": 50, "seed": 7}) == (200, batch)


def test_without_a_seed_batches_differ_and_tell_their_seed(server: SkillServer) -> None:
    _, first = generate(server, {"level": 20, "count": 5})
    _, second = generate(server, {"level": 20, "count": 5})
    assert first["samples"] != second["samples"]
    assert generate(server, {"level": 20, "count": 5, "seed": first["seed"]})[1] == first


def test_a_long_batch_comes_in_chunks_and_whole(server: SkillServer) -> None:
    status, batch, headers = call("POST", f"{server.url}/generate", {"level": 5, "count": 3500, "seed": 1})
    assert status == 200 and headers.get("transfer-encoding") == "chunked" and headers["content-type"] == "application/json"
    assert batch["count"] == len(batch["samples"]) == len({sample["id"] for sample in batch["samples"]}) == 3500


def test_the_evaluation_set_is_fixed_and_never_in_training(server: SkillServer) -> None:
    _, fixed = get(f"{server.url}/eval?level=4")
    assert fixed["count"] == len(fixed["samples"]) == 20
    assert get(f"{server.url}/eval?level=4&count=8")[1]["samples"] == fixed["samples"][:8]
    _, batch = generate(server, {"level": 4, "count": 3000, "seed": 1})
    problems = {sample["metadata"]["problem"] for sample in batch["samples"]}
    assert not problems & {sample["metadata"]["problem"] for sample in fixed["samples"]}


BAD: list[tuple[Any, list[str]]] = [
    (b"", ["body"]),
    (b"{", ["body"]),
    (b"\xff\xfe", ["body"]),
    ([1], ["body"]),
    ({}, ["level"]),
    ({"level": 0}, ["level"]),
    ({"level": "3", "count": 0, "seed": 1.5, "colour": 1}, ["colour", "level", "count", "seed"]),
    ({"level": True, "count": 100_001, "seed": 2**63}, ["level", "count", "seed"]),
    ({"level": None, "count": [], "seed": {}}, ["level", "count", "seed"]),
    (b'{"level": 31, "count": 1e3}', ["level", "count"]),
]


@pytest.mark.parametrize(("body", "places"), BAD)
def test_every_fault_of_a_request_is_named_at_once(server: SkillServer, body: Any, places: list[str]) -> None:
    status, answer = generate(server, body)
    assert status == 400
    assert [fault.partition(":")[0] for fault in answer["error"]["faults"]] == places
    assert answer["error"]["code"] == "bad_request" and answer["error"]["message"]


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ("", ["level"]),
        ("level=x&count=-1&why=1", ["why", "level", "count"]),
        ("level=1&level=2", ["level"]),
        ("level=" + "9" * 5000, ["level"]),
        ("level=2&seed=3", ["seed"]),
    ],
)
def test_every_fault_of_an_evaluation_request_is_named_at_once(server: SkillServer, query: str, places: list[str]) -> None:
    status, answer = get(f"{server.url}/eval?{query}")
    assert status == 400 and [fault.partition(":")[0] for fault in answer["error"]["faults"]] == places


def test_wrong_paths_methods_and_long_bodies_are_json_too(server: SkillServer) -> None:
    status, answer = get(f"{server.url}/nothing")
    assert (status, answer["error"]["code"]) == (404, "not_found")
    status, answer, headers = call("GET", f"{server.url}/generate")
    assert (status, answer["error"]["code"], headers["allow"]) == (405, "method_not_allowed", "POST")
    status, answer = generate(server, b'{"level": 1' + b" " * 70_000 + b"}")
    assert (status, answer["error"]["code"]) == (413, "too_long")
    assert get(f"{server.url}/health")[0] == 200


def test_another_host_or_site_is_refused(server: SkillServer) -> None:
    assert get(f"{server.url}/health", {"Host": f"localhost:{server.port}"})[0] == 200
    status, answer = get(f"{server.url}/health", {"Host": "evil.example"})
    assert (status, answer["error"]["code"]) == (421, "wrong_host")
    status, answer = generate(server, {"level": 1}, Origin="http://evil.example")
    assert (status, answer["error"]["code"]) == (403, "forbidden")
    assert generate(server, {"level": 1, "count": 1}, Origin=f"http://127.0.0.1:{server.port}")[0] == 200


def test_options_of_the_command_line_and_of_a_skill_file_reach_the_generator(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text("id: binary\noptions: {forms: [brief], tasks: [], auxiliary_share: 0, symbol_share: 0, chains: false}\n")
    with skill_server("bin", "--config", str(config), "--option", "operations=[increment]", base=tmp_path) as server:
        _, batch = generate(server, {"level": 12, "count": 40, "seed": 1})
    assert all(sample["user_prompt"].startswith("Compute: increment(") for sample in batch["samples"])


def test_a_skill_that_a_user_added_is_served_by_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_skills.py").write_text(
        "from guild.skills.binary.skill import BinarySkill\n\n\nclass Sums(BinarySkill):\n    id, max_level = 'sums', 2\n"
    )
    folder = tmp_path / "configs" / "skills"
    folder.mkdir(parents=True)
    (folder / "sums.yaml").write_text("id: sums\nclass: my_skills:Sums\noptions: {operations: [add]}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with skill_server("sums", base=tmp_path) as server:
        assert len(get(f"{server.url}/levels")[1]["levels"]) == 2
        assert generate(server, {"level": 3})[0] == 400
        _, batch = generate(server, {"level": 2, "count": 30, "seed": 1})
    assert all("add(" in sample["user_prompt"] for sample in batch["samples"] if sample["scenario"] == "brief")
