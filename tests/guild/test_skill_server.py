"""The command: how it starts, what it refuses, how it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from guild import skill_server as command
from guild.curriculum.progress import settings_of
from guild.curriculum.sources import source_of
from guild.places import Places
from helpers.guild_curriculum import make_curriculum_house
from helpers.guild_skill_server import skill_server, start
from helpers.raw_http import get, post_raw
from modelwright.errors import ConfigError, DamagedFileError
from modelwright.files import read_json, write_json


def free_port() -> int:
    """A port that nobody listens on; it may be taken a moment later, which no test here has met."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ended(*arguments: str, base: Path) -> tuple[int, str]:
    """(exit code, standard error) of a server that does not start."""
    process = start(*arguments, base=base)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_a_port_in_use_ends_it_with_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert ended("bin", "--port", str(port), base=tmp_path) == (
            1,
            f"Port {port} of 127.0.0.1 is in use by another process; stop that one or choose another --port.\n",
        )


def test_what_cannot_be_served_is_said(tmp_path: Path) -> None:
    code, errors = ended("bim", base=tmp_path)
    assert code == 1 and "'bim'" in errors and "bin" in errors and "Traceback" not in errors
    code, errors = ended("bin", "--option", "forms=[long]", "--option", "symbol_share=7", base=tmp_path)
    assert code == 2 and errors.count("\n") == 2 and "forms" in errors and "symbol_share" in errors
    code, errors = ended("bin", "--config", str(tmp_path / "none.yaml"), base=tmp_path)
    assert code == 1 and "none.yaml" in errors and "Traceback" not in errors
    assert ended("bin", "--port", "70000", base=tmp_path)[0] == 2


def test_the_skill_file_of_the_base_directory_is_used_with_its_port(tmp_path: Path) -> None:
    folder = tmp_path / "configs" / "skills"
    folder.mkdir(parents=True)
    (folder / "bin.yaml").write_text("id: bin\napi: {port: 8123}\noptions: {forms: [trace]}\n")
    skill, port = command.chosen_skill("binary", Places(tmp_path), None, ["hint_share=0.0"])
    assert port == 8123 and skill.settings.forms == ("trace",) and skill.settings.hint_share == 0  # type: ignore[attr-defined]
    assert command.chosen_skill("bin", Places(tmp_path / "other"), None, [])[1] == 8090
    (tmp_path / "sy.yaml").write_text("id: sy\n")
    with pytest.raises(ConfigError, match="skill to serve"):
        command.chosen_skill("bin", Places(tmp_path), tmp_path / "sy.yaml", [])


def test_item_25_it_listens_where_the_registry_sends_its_clients(tmp_path: Path) -> None:
    places = make_curriculum_house(tmp_path / "house", api=free_port())
    settings = settings_of(places, "bin")
    assert settings.url == "http://127.0.0.1:8090"  # the skill file says otherwise, and gives way
    with skill_server("binary", base=places.base, port=None) as server:
        source = source_of(places, settings)
        assert source.address == server.url and source.info().address == server.url
        assert [one["id"] for one in source.generate(1, 2, 1).samples] == ["bin-L01-s1-000000", "bin-L01-s1-000001"]


def test_the_registry_is_read_before_the_skill_file_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    places = make_curriculum_house(tmp_path / "house", api=8123)
    assert command.registered_port(places, "bin") == 8123 and command.registered_port(places, "sort") is None
    content = read_json(places.hosts)
    content["hosts"]["other"] = content["hosts"].pop("local")
    content["hosts"]["here"] = {"host": "localhost", "role": "inference"}
    write_json(places.hosts, {**content, "local_host": "here", "default_trainer": "other", "default_inference": "here"})
    assert command.registered_port(places, "bin") is None  # the service of another machine says nothing about ours
    places.hosts.write_text("{")
    with pytest.raises(DamagedFileError):
        command.registered_port(places, "bin")
    places.hosts.unlink()
    assert command.registered_port(places, "bin") is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_even_while_a_long_batch_is_made(tmp_path: Path, number: int) -> None:
    with skill_server("bin", base=tmp_path) as server:
        connection = post_raw(server.port, "/generate", {"level": 30, "count": 100_000, "seed": 1})
        idle = socket.create_connection(("127.0.0.1", server.port))
        time.sleep(0.5)
        assert get(f"{server.url}/health")[0] == 200  # answered while the batch is being made
        assert server.stop(number, timeout=10) == 0
        answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 503 ") and b'"code":"ending"' in answer
        assert idle.recv(1) == b""
        assert server.process.stderr is not None and server.process.stderr.read() == ""
        connection.close()
        idle.close()


def test_two_batches_at_once_are_both_answered(tmp_path: Path) -> None:
    from helpers.raw_http import call

    found: list[int] = []
    with skill_server("bin", base=tmp_path) as server:
        asking = [
            threading.Thread(
                target=lambda seed=seed: found.append(call("POST", f"{server.url}/generate", {"level": 3, "seed": seed})[1]["count"])
            )
            for seed in range(4)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert server.stop() == 0
    assert found == [100] * 4


def test_help_is_plain_and_imports_nothing_heavy() -> None:
    code = "import sys; from guild.skill_server import build_parser; print(build_parser().format_help()); print(sorted(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    text, modules = shown.rsplit("\n[", 1)
    assert "exit codes:" in text and "examples:" in text
    assert not any(f"'{name}'" in modules for name in ("torch", "transformers", "pydantic", "starlette", "uvicorn", "yaml"))
