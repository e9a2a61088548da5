"""Which command lines serve."""

from __future__ import annotations

import shlex

import pytest

from macprovider.autotune.live.argv_rules import role_of


@pytest.mark.parametrize(
    "line",
    [
        "macprovider-cli serve",
        "/usr/local/bin/macprovider-cli serve --model x --port 8080",
        "./macprovider-cli serve --no-join",
        "/opt/venv/bin/python /opt/venv/bin/macprovider-cli serve --model m",
        "python3.11 -u -X dev -W ignore::UserWarning bin/macprovider-cli serve",
        "python3 -m macprovider.cli serve --model m",
        "Python -Im macprovider.cli serve",
        "python -mmacprovider.cli serve",
        "python --check-hash-based-pycs always -- macprovider-cli serve",
        "python src/macprovider/cli.py serve",
        "modelwright provider serve --model m",
        "python /usr/bin/modelwright provider serve",
        "python -m modelwright.cli provider serve",
        "/bin/sh /usr/local/bin/macprovider-cli serve",
        "macprovider-cli serve --model autotune",
    ],
)
def test_serving(line: str) -> None:
    assert role_of(shlex.split(line)) == "serve"


@pytest.mark.parametrize(
    "line",
    [
        "macprovider-cli autotune",
        "macprovider-cli autotune --candidate-models serve --port 1",
        "python -m macprovider.cli autotune --db-path serve",
        "modelwright provider autotune experiment tie-epsilon",
    ],
)
def test_tuning(line: str) -> None:
    assert role_of(shlex.split(line)) == "autotune"


@pytest.mark.parametrize(
    "line",
    [
        "vim macprovider-cli serve",
        "less /usr/local/bin/macprovider-cli serve",
        "grep macprovider-cli serve notes.txt",
        "tail -f macprovider-cli serve",
        "python -c 'macprovider-cli' macprovider-cli serve",
        "python editor.py macprovider-cli serve",
        "python -m idlelib macprovider-cli serve",
        "python -m http.server serve",
        "python -",
        "python",
        "bash -c 'macprovider-cli serve'",
        "bash",
        "macprovider-cli",
        "macprovider-cli models list",
        "macprovider-cli help serve",
        "macprovider-cli observe",
        "macprovider-cli --serve",
        "my-macprovider-cli serve",
        "macprovider-cli.bak serve",
        "modelwright serve",
        "modelwright scale serve",
        "''",
    ],
)
def test_neither(line: str) -> None:
    assert role_of(shlex.split(line)) == "other"


def test_no_words() -> None:
    assert role_of([]) == "other"
