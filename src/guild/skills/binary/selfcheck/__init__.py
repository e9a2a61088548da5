"""Reading a sample back from its texts alone and recomputing every line. Nothing here is shared with what renders samples.

(specs/guild.md 6.1, acceptance item 30)
"""

from __future__ import annotations

from guild.skills.binary.selfcheck.checking import faults_of

__all__ = ["faults_of"]
