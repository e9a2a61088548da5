"""Run the command in a child that file permissions hold for, also when the tests run as root.

Root reads everything through two capabilities. A child that drops them from its bounding set and then starts its
program anew is an ordinary owner of its files: what `chmod` forbids is forbidden.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import modelwright

_DROP = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if os.geteuid() == 0 and libc.prctl(24, capability, 0, 0, 0) != 0:  # 24: PR_CAPBSET_DROP
        sys.exit(f"a capability cannot be dropped here: {os.strerror(ctypes.get_errno())}")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
_COMMANDS = """
import contextlib, io, json, os, sys
from modelwright.runs_cli import main
found = {"may_read": os.access(sys.argv[1], os.R_OK | os.X_OK), "results": []}
for arguments in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    found["results"].append([code, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""


def runs_without_privilege(path: Path, commands: Sequence[Sequence[str]]) -> list[tuple[int, str, str]] | str:
    """`modelwright runs` with each of `commands`: exit code, standard output, standard error; a sentence instead when
    no child here can be kept from reading `path`.
    """
    words = ["-c", _COMMANDS, str(path), json.dumps([list(command) for command in commands])]
    environment = {**os.environ, "PYTHONPATH": str(Path(modelwright.__file__).parents[1])}
    child = subprocess.run([sys.executable, "-c", _DROP, *words], env=environment, capture_output=True, text=True, check=False)
    if child.stderr.startswith("a capability cannot be dropped"):
        return child.stderr.strip()
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    if found["may_read"]:
        return "the file system here lets this user read everything"
    return [(code, out, err) for code, out, err in found["results"]]
