"""The command prefetch: targets, dry run, what is fetched and what is said when it cannot be. (specs/medic.md, 8.10; acceptance 42)"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import modelwright
from cachemedicpp.medic_cli import COMMANDS, HELP_PAGES
from cachemedicpp.medic_cli import main as medic
from cachemedicpp.prefetch import Target, main, wanted_targets
from modelwright.errors import ConfigError

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "medic"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"model": null}',
    "model.safetensors": b"weights",
    "consolidated.safetensors": b"weights once more",
    "pytorch_model.bin": b"a pickle",
    "onnx/config.json": b"{}",
    "README.md": b"# read me",
}
GUARDED = """
import sys
def guard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        import os; print("connection tried", arguments, file=sys.stderr); os._exit(77)
sys.addaudithook(guard)
from cachemedicpp.prefetch import main
code = main(sys.argv[1:])
assert "huggingface_hub" not in sys.modules and "torch" not in sys.modules
sys.exit(code)
"""


def process(*words: str, code: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"PYTHONPATH": str(Path(modelwright.__file__).parents[1]), "NO_PROXY": "127.0.0.1", **variables}
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "cachemedicpp.prefetch"]
    return subprocess.run([*command, *words], capture_output=True, text=True, env=environment, check=False)


def written(path: Path, document: object) -> Path:
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


# ---------------------------------------------------------------------- targets


def test_without_targets_a_dry_run_lists_two_models_and_opens_no_connection() -> None:
    """Acceptance 42."""
    done = process("--dry_run", code=GUARDED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"[prefetch:dry-run] model={name} revision=default" for name in ("gpt2-medium", "gpt2-large")]


def test_targets_keep_their_order_and_come_once(tmp_path: Path) -> None:
    run = written(tmp_path / "run.yaml", {"model": {"name": "a/b", "revision": "v1"}})
    sweep = {
        "sweep_name": "s",
        "base_config": "run.yaml",
        "runs": [
            {"name": "one", "overrides": {"train.steps": 3}},
            {"name": "two", "overrides": {"model.name": "c/d", "model.revision": None}},
            {"name": "three", "overrides": {"model.revision": "v2"}},
        ],
    }
    found = wanted_targets([written(tmp_path / "sweep.yaml", sweep), run], ["c/d", "x/y@r@s", "a/b@v1"])
    assert found == (Target("a/b", "v1"), Target("c/d"), Target("a/b", "v2"), Target("x/y", "r@s"))
    assert wanted_targets([CONFIGS / "sweeps" / "second_model.yaml", CONFIGS / "mve.yaml"], []) == (
        Target("gpt2-large"),
        Target("gpt2-medium"),
    )


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"train": {}}, "model: found nothing"),
        ({"model": "gpt2"}, "model: found 'gpt2'"),
        ({"model": {"name": " "}}, "model.name: found ' '"),
        ({"model": {"name": "a", "revision": 3}}, "model.revision: found 3"),
        ({"base_config": "none.yaml", "runs": [{"name": "a"}]}, "base_config: found 'none.yaml'"),
        ({"base_config": "config.yaml", "runs": []}, "runs: found []"),
        (["model"], "found a list"),
    ],
)
def test_a_configuration_without_a_model_exits_2(document: object, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "config.yaml", document)
    assert main(["--config", str(path), "--model", "@main", "--model", "a@", "--dry_run"]) == 2
    faults = capsys.readouterr().err
    assert said in faults and "an empty name" in faults and "an empty revision" in faults


def test_a_fault_in_one_run_of_a_sweep_names_the_run(tmp_path: Path) -> None:
    written(tmp_path / "base.yaml", {"model": {"name": "a"}})
    sweep = {"base_config": "base.yaml", "runs": [{"name": "x", "overrides": {"model.name": ""}}]}
    with pytest.raises(ConfigError, match=r"run x: model.name: found ''"):
        wanted_targets([written(tmp_path / "sweep.yaml", sweep)], [])


# ---------------------------------------------------------------------- fetching


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of a model hub as the real client needs to download the repository `some/model`."""

    asked: list[str]

    def do_GET(self) -> None:
        self._answer(send=True)

    def do_HEAD(self) -> None:
        self._answer(send=False)

    def _answer(self, send: bool) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/api/models/some/model"):
            listing = {"_id": "1", "id": "some/model", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
            tree = [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in FILES.items()]
            self._send(json.dumps(tree if "/tree/" in self.path else listing).encode(), "application/json", send)
        elif self.path.startswith("/some/model/resolve/") and (name := self.path.split("?")[0].split("/", 5)[5]) in FILES:
            self._send(FILES[name], "application/octet-stream", send)
        else:
            self.send_error(404)

    def _send(self, data: bytes, kind: str, send: bool) -> None:
        self.send_response(200)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if send:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    """Address of the hub, and the paths that it was asked for."""
    handler = type("Hub", (_Hub,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked
    server.shutdown()
    server.server_close()


def test_only_configuration_tokenizer_and_safetensors_are_fetched(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = hub
    words = ("--model", "some/model@main", "--model", "some/other", "--cache_dir", str(tmp_path / "cache"))
    done = process(*words, HF_ENDPOINT=address, HF_HOME=str(tmp_path / "home"), HF_HUB_DISABLE_XET="1")
    assert done.returncode == 1 and "model=some/other revision=default: the hub did not deliver it" in done.stderr, done.stderr
    folder = tmp_path / "cache" / "models--some--model" / "snapshots" / COMMIT
    assert done.stdout.splitlines() == [f"[prefetch] model=some/model revision=main path={folder}"]
    kept = {"config.json", "tokenizer.json", "model.safetensors"}
    assert {path.name for path in folder.rglob("*") if path.is_file()} == kept
    assert not [path for path in asked if path.endswith((".bin", ".md", "consolidated.safetensors", "onnx/config.json"))]
    again = process(*words[:2], *words[4:], "--local_files_only", HF_HOME=str(tmp_path / "home"), HF_ENDPOINT="http://127.0.0.1:9")
    assert (again.returncode, again.stdout) == (0, done.stdout), again.stderr


@pytest.mark.slow
def test_what_cannot_be_reached_is_said_in_a_sentence(tmp_path: Path) -> None:
    """Two minutes: the library tries again and again."""
    closed = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = process("--model", "gpt2", "--local_files_only", **closed)
    assert done.returncode == 1 and "it is not in the cache" in done.stderr and "Traceback" not in done.stderr
    done = process("--model", "gpt2", "--with_data", **closed)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "model=gpt2 revision=default: the hub did not deliver it" in done.stderr and "stanfordnlp/sst2" in done.stderr


def test_models_that_are_here_need_no_hub(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert main(["--config", str(CONFIGS / "tiny.yaml"), "--model", str(tmp_path)]) == 0
    packaged, local = capsys.readouterr().out.splitlines()
    assert packaged.startswith("[prefetch] model=modelwright/tiny-1.5m revision=default path=/") and packaged.endswith("tiny-1.5m")
    assert local == f"[prefetch] model={tmp_path} revision=default path={tmp_path}"
    assert main(["--model", "no such model"]) == 1
    assert "neither a folder" in capsys.readouterr().err


def test_data_sets_are_named_in_a_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry_run", "--with_data", "--model", "a/b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[prefetch:dry-run] model=a/b revision=default" and len(lines) == 6
    assert all("data=hf://" in line and "split=" in line for line in lines[1:])


# ---------------------------------------------------------------------- the front door


def test_the_seven_commands_stand_behind_the_front_door(capsys: pytest.CaptureFixture[str]) -> None:
    assert medic(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS) and len(COMMANDS) == 7
    assert medic(["prefetch", "--dry_run", "--model", "a/b"]) == 0
    assert capsys.readouterr().out == "[prefetch:dry-run] model=a/b revision=default\n"
    assert medic(["wach"]) == 2 and "modelwright medic watch" in capsys.readouterr().err
    assert 'medic = "cachemedicpp.medic_cli:main"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", HELP_PAGES, ids=lambda words: " ".join(words) or "table")
def test_help_is_light(words: tuple[str, ...]) -> None:
    code = (
        "import sys; from cachemedicpp.medic_cli import main\ntry: main([*sys.argv[1:], '--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'transformers', 'pydantic', 'rich', 'matplotlib'} & set(sys.modules)"
    )
    done = process(*words, code=code)
    assert done.returncode == 0, done.stderr
    assert "xample" in done.stdout
