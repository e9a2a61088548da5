"""The cache folder is the one that the hub's client uses, whatever the environment says (D17)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from macprovider.weights.cache_dir import cache_dir, moved_since

ENVIRONMENTS = [
    {},
    {"HF_HOME": "/x/home"},
    {"XDG_CACHE_HOME": "/x/cache"},
    {"HF_HUB_CACHE": "/x/hub", "HF_HOME": "/x/home"},
    {"HUGGINGFACE_HUB_CACHE": "/x/old", "XDG_CACHE_HOME": "/x/cache"},
    {"HUGGINGFACE_HUB_CACHE": "/x/old", "HF_HUB_CACHE": "/x/new"},
    {"HF_HOME": "$SOMEWHERE/home", "SOMEWHERE": "/x"},
    {"HF_HUB_CACHE": "~/hub"},
    {"HF_HOME": ""},
]


def test_it_agrees_with_the_hubs_client() -> None:
    script = """
import importlib, json, os, sys
from pathlib import Path
from huggingface_hub import constants
found = []
for variables in json.loads(sys.argv[1]):
    os.environ.update(variables)
    importlib.reload(constants)
    found.append(str(Path(constants.HF_HUB_CACHE).expanduser().resolve()))
    for name in variables:
        del os.environ[name]
print(json.dumps(found))
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_", "XDG_"))}
    done = subprocess.run([sys.executable, "-c", script, json.dumps(ENVIRONMENTS)], env=clean, capture_output=True, text=True, check=True)
    ours = subprocess.run(
        [
            sys.executable,
            "-c",
            "import json, os, sys\nfrom macprovider.weights.cache_dir import cache_dir\nfound = []\n"
            "for variables in json.loads(sys.argv[1]):\n    os.environ.update(variables)\n    found.append(str(cache_dir()))\n"
            "    for name in variables:\n        del os.environ[name]\nprint(json.dumps(found))",
            json.dumps(ENVIRONMENTS),
        ],
        env=clean,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ours.stdout) == json.loads(done.stdout)


def test_links_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert cache_dir({"HF_HUB_CACHE": str(tmp_path / "link")}) == tmp_path / "real"


def test_a_moved_cache_is_told_once_and_only_then() -> None:
    assert moved_since(None, Path("/x")) == ""
    assert moved_since("/x", Path("/x")) == ""
    sentence = moved_since("/old", Path("/x"))
    assert "/old" in sentence and "/x" in sentence
