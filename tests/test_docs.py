"""The documents say what is true: links lead somewhere, named tests exist, the architecture lists the modules that are there."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
NAMED_TEST = re.compile(r"`(tests/[\w/.-]+\.py)(?:::([\w:]+))?`")


@pytest.mark.parametrize("document", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files(document: Path) -> None:
    broken = [
        target
        for target in LINK.findall(document.read_text(encoding="utf-8"))
        if "://" not in target and not target.startswith("mailto:") and not (document.parent / target).exists()
    ]
    assert broken == []


def _names_in(path: Path) -> set[str]:
    """Names of test functions in a file, methods as ``Class::method``."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names.add(node.name)
            names |= {f"{node.name}::{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
    return names


def test_every_acceptance_item_names_a_test_that_exists() -> None:
    missing = []
    text = (ROOT / "docs" / "acceptance.md").read_text(encoding="utf-8")
    named = NAMED_TEST.findall(text)
    assert named, "docs/acceptance.md names no test"
    for file, name in named:
        path = ROOT / file
        if not path.is_file() or (name and name not in _names_in(path)):
            missing.append(f"{file}::{name}")
    assert missing == []


def test_every_acceptance_row_has_a_test() -> None:
    rows = [line for line in (ROOT / "docs" / "acceptance.md").read_text(encoding="utf-8").splitlines() if re.match(r"\| \d+ ", line)]
    assert rows
    assert [row for row in rows if not NAMED_TEST.search(row)] == []


def test_the_first_lines_of_the_readme_can_be_copied_after_the_demo(tmp_path: Path) -> None:
    """The block under "Use it on your model", typed as it stands where `make demo` has left its environment and its text."""
    from scaler_wizard.demo import dataset_uri

    readme, makefile = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "Makefile"))
    block = readme.split("## Use it on your model", 1)[1].split("```")[1]
    assert "VENV      := .venv" in makefile and "RUN_DIR   ?= runs/demo" in makefile and dataset_uri(Path("runs/demo")) in block
    (tmp_path / ".venv").symlink_to(sys.prefix)
    text = tmp_path / "runs" / "demo" / "data" / "training.jsonl"
    text.parent.mkdir(parents=True)
    text.write_text('{"text": "Some words to train on."}\n' * 8, encoding="utf-8")
    environment = {**os.environ, "PATH": "/usr/bin:/bin"}  # the lines themselves have to find the environment
    done = subprocess.run(["bash", "-e", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Dry run of modelwright/tiny-1.5m" in done.stdout
    assert (tmp_path / "runs" / "mine" / "plan.json").exists()
    assert "contract_version" in (tmp_path / "config" / "human_contract.yaml").read_text(encoding="utf-8")


def _modules(package: Path) -> set[str]:
    """First-level modules and sub-packages of one import package, as the architecture table writes them."""
    found = set()
    for entry in package.iterdir():
        if entry.suffix == ".py" and not entry.name.startswith("__"):
            found.add(entry.name)
        elif entry.is_dir() and any(entry.glob("*.*")) and not entry.name.startswith(("__", ".")):
            found.add(entry.name + "/")
    return found


@pytest.mark.parametrize("room", ["modelwright", "scaler_wizard", "cachemedicpp", "macprovider"])
def test_the_architecture_lists_exactly_the_modules_that_exist(room: str) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    heading = next(line for line in text.splitlines() if line.startswith("## ") and f"`src/{room}/`" in line)
    section = text.split(heading, 1)[1].split("\n## ", 1)[0]
    first_cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    listed = {name for cell in first_cells for name in re.findall(r"`([\w./]+)`", cell)}
    assert listed == _modules(ROOT / "src" / room)
