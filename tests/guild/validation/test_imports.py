"""Checking data costs no start of a training library."""

from __future__ import annotations

import subprocess
import sys


def test_no_training_library_is_imported() -> None:
    program = (
        "import sys, guild.validation.validate, guild.validation.job, guild.validation.base_prompt\n"
        "print(*{'torch', 'transformers', 'datasets', 'numpy', 'pydantic', 'psutil', 'multiprocessing'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == ""
