"""Effects that block training: a person has to look before files are begun again. (specs/guild.md 2.3.5, G10)

An effect whose rule says `blocks_training` (shipped: `reality_tear`, the loss is not a number) pauses training when it is at work; a
resume goes on, and the same effect asks again only when it begins anew. A loss that is not a number has one condition more. It ends
the training of its file, which is tried again and parked like one that fails otherwise; that is the file's affair, and no night is lost
for it. A second file in a row, with no checkpoint between, says that the model or its settings are at fault, and every further file would
be parked for nothing: then training is paused.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from guild.campaigns.pointer import require_active
from guild.control.signals import active, give
from guild.places import Places
from guild.progression.effect_rules import read_rules
from guild.progression.hero_state import hero_state
from guild.progression.history import NOT_FINITE
from guild.records import events
from guild.records.checkpoint_record import CampaignId
from modelwright.clock import Clock
from modelwright.database import Database

FILES = 2
"""Files in a row without a finite loss that block."""
_FAMILIES: tuple[events.Family, ...] = ("training",)


@dataclass
class Blocking:
    """Looks at what training told since the last look. known: effects that blocked, with the step at which they began."""

    db: Database
    places: Places
    clock: Clock
    _after: int = field(init=False)
    _torn: set[str] = field(default_factory=set)
    _known: set[tuple[str, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._after = events.last_id(self.db)

    def look(self) -> str:
        """Ask for a pause when an effect blocks; returns the sentence, or "". Raises ConfigError for rules that cannot be read."""
        if not self._news() or active(self.places)["pause"]:
            return ""
        rules = read_rules(self.places).effects
        blocking = {name for name, rule in rules.items() if rule.blocks_training}
        tears = {name for name in blocking if rules[name].trigger == "not_finite"}
        possible = blocking if len(self._torn) >= FILES else blocking - tears
        if not possible:
            return ""
        state = hero_state(self.db, self.places, CampaignId(*require_active(self.places).key), clock=self.clock)
        found = {
            (effect["name"], effect["since"]): effect["description"]
            for effect in state["effects"]
            if effect["name"] in possible and (effect["name"] in tears or (effect["name"], effect["since"]) not in self._known)
        }
        return self._pause(found, tears) if found else ""

    def _news(self) -> bool:
        """Read what training told; whether anything that an effect could begin with was among it."""
        news = False
        while events.last_id(self.db) > self._after:
            page = events.read_after(self.db, self._after, families=_FAMILIES)
            self._after = page.last
            for event in page.events:
                if event.type in ("training.saved", "training.completed"):
                    self._torn.clear()
                elif event.type == "training.failed" and event.data.get("error_type") == NOT_FINITE:
                    self._torn.add(str(event.data.get("file")))
                news |= event.type in ("training.saved", "training.completed", "training.failed")
        return news

    def _pause(self, found: dict[tuple[str, int], str], tears: set[str]) -> str:
        self._known |= set(found)
        name, since = next(iter(found))
        files = f" {len(self._torn)} files in a row: {', '.join(sorted(self._torn))}." if name in tears else ""
        reason = f"{name}: {found[name, since]}"
        text = f"Training is blocked since step {since} by {reason}{files} Look at it, then `guild control resume`."
        self._torn.clear()
        give(self.places, "pause", reason, clock=self.clock)
        data = {"effects": [effect for effect, _ in found], "step": since}
        events.record(
            self.db, "daemon.training_blocked", text, source="daemon", severity="error", data=data, durable=True, clock=self.clock
        )
        return text
