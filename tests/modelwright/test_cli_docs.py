"""docs/cli.md is what the commands say."""

from __future__ import annotations

import sys

import pytest

from modelwright.cli import commands
from modelwright.cli_docs import TARGET, document, main, pages
from modelwright.runs_arguments import HELP_PAGES


def test_every_command_has_its_pages() -> None:
    found = list(pages())
    assert found[0] == () and {page[0] for page in found[1:]} == set(commands())
    assert {page[1:] for page in found if page[:1] == ("runs",)} == set(HELP_PAGES)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="argparse words its help differently in other versions")
def test_the_committed_reference_is_current() -> None:
    assert TARGET.read_text(encoding="utf-8") == document(), "run: make docs"


def test_wrong_arguments_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--what"]) == 2
    assert "usage" in capsys.readouterr().err
