"""What a record says about code and host, and what it must not say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import modelwright
from modelwright import environment
from modelwright.environment import REDACTED, redact, redact_config


@pytest.mark.parametrize(
    ("argv", "clean"),
    [
        (["x", "--token", "abc", "--steps", "3"], ["x", "--token", REDACTED, "--steps", "3"]),
        (["x", "--hf-token=abc"], ["x", f"--hf-token={REDACTED}"]),
        (["x", "--api_key", "k", "--key", "k2"], ["x", "--api_key", REDACTED, "--key", REDACTED]),
        (["HF_TOKEN=abc", "x"], [f"HF_TOKEN={REDACTED}", "x"]),
        (["x", "--password", "-dash", "y"], ["x", "--password", REDACTED, "y"]),
        (["x", "--token", "--json"], ["x", "--token", "--json"]),
        (["x", "hf_abcdefghijklmnopqrstuv"], ["x", REDACTED]),
        (["x", "--header", "Bearer abcdef"], ["x", "--header", REDACTED]),
        (["x", "https://me:pw@host/a"], ["x", f"https://{REDACTED}@host/a"]),
        (["x", "--tokenizer", "t", "--max-tokens", "5"], ["x", "--tokenizer", "t", "--max-tokens", "5"]),
        (["x", "--authorized-keys", "f.yaml", "--eos-token", "</s>"],) * 2,
    ],
)
def test_secrets_leave_the_command_line(argv: list[str], clean: list[str]) -> None:
    assert redact(argv) == clean


def test_secrets_leave_the_config() -> None:
    config = {
        "a": {"api_key": "k", "tokens": 5, "token": None},
        "urls": ["http://u:p@h"],
        "n": 1,
        "x": "hf_" + "a" * 20,
    }
    assert redact_config(config) == {
        "a": {"api_key": REDACTED, "tokens": 5, "token": None},
        "urls": [f"http://{REDACTED}@h"],
        "n": 1,
        "x": REDACTED,
    }


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", str(folder), *settings, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_of_a_checkout_is_recorded_with_local_changes_marked(tmp_path: Path) -> None:
    assert environment._git_commit(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert environment._git_commit(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "one")
    git(tmp_path, "tag", "-am", "v1", "v1")
    assert environment._git_commit(tmp_path) == git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "a").write_text("2")
    assert environment._git_commit(tmp_path) == git(tmp_path, "rev-parse", "HEAD") + "-dirty"


def test_environment_names_versions_without_importing_them() -> None:
    captured = environment.capture_environment()
    assert captured["packages"]["pydantic"] and captured["python"].startswith("3.")
    assert environment.code_version()["version"] == modelwright.__version__
