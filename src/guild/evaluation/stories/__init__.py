"""Twenty families of short stories with a question, in the manner of the bAbI tasks and in words of our own.

The list of abilities follows Weston et al. 2015, "Towards AI-Complete Question Answering"; stories and generators are ours.
(specs/guild.md 4.7)
"""

from __future__ import annotations

from guild.evaluation.families.family import Family
from guild.evaluation.stories import facts, holding, people, reasoning, space

TASKS: tuple[Family, ...] = (*facts.TASKS, *holding.TASKS, *people.TASKS, *reasoning.TASKS, *space.TASKS)

__all__ = ["TASKS"]
