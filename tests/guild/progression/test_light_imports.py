"""Progression and sparring load no training library. (issue decision One training executor)"""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "correction.running", "correction.staleness", "correction.validator", "progression.hero_state",
    "progression.incidents", "progression.records_read", "progression.runs", "progression.templates", "progression.worth",
)  # fmt: skip


def test_without_torch() -> None:
    code = f"import {', '.join(f'guild.{name}' for name in MODULES)}, sys; print(*{{'torch', 'transformers', 'numpy'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
