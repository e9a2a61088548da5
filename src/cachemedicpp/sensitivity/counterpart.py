"""The run to compare with: the same configuration trained without the contraction penalty. (specs/medic.md, 5.1; [C17])

It is sought among the directories beside the run. Two configurations are counterparts when everything in them is equal, the
seed included, except `train.lambda_contr` (0 in the counterpart) and the paths of files whose content is equal; where a run
lies is no part of its configuration. The checkpoints compared are of the same training step.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cachemedicpp.phases.layout import RESOLVED
from modelwright.errors import ModelwrightError

if TYPE_CHECKING:
    from cachemedicpp.config.sections import RunConfig

SELF: Final = "self"
"""The run itself was trained without the penalty."""
MISSING_PAIR: Final = "missing_pair"
"""No run beside this one is a counterpart."""
PAIR_CHECKPOINT_MISSING: Final = "pair_checkpoint_missing"
"""There is a counterpart, and it has no repair checkpoint of this step."""
NAMES = ("main_contr", "ablation_no_contr")
"""A run whose name holds the first looks first for the run whose name holds the second in its place."""


@dataclass(frozen=True)
class Counterpart:
    """What the search found.

    source: `self`, a path relative to the run, `missing_pair` or `pair_checkpoint_missing`. checkpoint: the repair file to
    compare with; None for the last two, and for `self`, whose checkpoint is the run's own.
    """

    source: str
    checkpoint: Path | None = None


def find_counterpart(config: RunConfig, folder: Path, own_checkpoint: Path | None) -> Counterpart:
    """The counterpart of the run in `folder`.

    own_checkpoint: the run's own repair file, whose step the counterpart must have reached; None for an untrained operator,
    which is compared with the counterpart's newest. A directory whose configuration cannot be read is no counterpart.
    """
    from cachemedicpp.training.state import latest_repair, repair_path

    if config.train.lambda_contr == 0:
        return Counterpart(SELF)
    found = MISSING_PAIR
    for sibling in _siblings(folder.absolute()):
        if not _matches(config, sibling):
            continue
        path: Path | None
        if own_checkpoint is None:
            path = latest_repair(sibling)
        else:
            path = repair_path(sibling, int(own_checkpoint.stem.rpartition("_")[2]))
        if path is not None and path.exists():
            return Counterpart(os.path.relpath(sibling, folder.absolute()), path)
        found = PAIR_CHECKPOINT_MISSING
    return Counterpart(found)


def _siblings(folder: Path) -> Iterator[Path]:
    """The run directories beside `folder`, the one that the naming rule expects first, then by name."""
    expected = folder.with_name(folder.name.replace(*NAMES))
    others = sorted(path for path in folder.parent.iterdir() if path not in (folder, expected))
    for path in ([expected] if expected != folder else []) + others:
        if (path / RESOLVED).is_file():
            yield path


def _matches(config: RunConfig, sibling: Path) -> bool:
    from cachemedicpp.config.settings import is_counterpart, load_run_config

    with contextlib.suppress(ModelwrightError, OSError):
        return is_counterpart(config, load_run_config(sibling / RESOLVED))
    return False
