"""Which findings of DEEP keep a file from training, and which only warn. (specs/guild.md 5.2)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from guild.errors import UnknownNameError
from guild.validation.deep.checks import FILE_CHECKS, ROW_CHECKS
from modelwright.errors import UsageError

CHECK_NAMES = (*ROW_CHECKS, *FILE_CHECKS)


class UnknownCheckError(UnknownNameError):
    """No check of that name."""

    kind = "check"


@dataclass(frozen=True)
class Policy:
    """How strictly DEEP judges; by default every finding is a warning.

    block: check -> share of the rows, 0 to 1, that may have the finding before the file is invalid (0: none may; for `emoji_share` any
    number means: the share must be right). skip: checks that are not made. expect_marks: the file is through a profile that marks about
    half of the rows, so no marks at all is wrong too. Raises UnknownCheckError, and UsageError for a share that is none.
    """

    block: Mapping[str, float] = field(default_factory=dict)
    skip: frozenset[str] = frozenset()
    expect_marks: bool = False

    def __post_init__(self) -> None:
        for name in (*self.block, *self.skip):
            if name not in CHECK_NAMES:
                raise UnknownCheckError(name, CHECK_NAMES, where="a policy")
        for name, share in self.block.items():
            if not 0 <= share <= 1:
                raise UsageError(f"policy.block.{name}: found {share}; allowed: a share of the rows, 0 to 1.")

    def blocks(self, name: str, share: float) -> bool:
        """Whether a finding in this share of the rows makes the file invalid."""
        return name in self.block and share > self.block[name]


WARN = Policy()
BLOCK_ALL = Policy(block=dict.fromkeys(CHECK_NAMES, 0.0))
"""No finding of DEEP passes."""
