"""The rules of effects, from a file: what begins one, how long it lasts, what it changes. (specs/guild.md 2.3.5)"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from guild.places import Places
from guild.progression.results import Grade
from guild.templates import FOLDER
from modelwright.config import Layer, resolve
from modelwright.files import read_yaml

NAME = "effects.yaml"
Trigger = Literal["gap", "consecutive", "repetition", "plateau", "not_finite", "level_up"]
Stance = Literal["thoughtful", "quick_draw", "alternating"]
"""How answers are given: with thinking marks, directly, or one way and the other; the profile `emoji_think` alternates."""
_NEEDED: dict[Trigger, tuple[str, ...]] = {
    "gap": ("above", "window"),
    "repetition": ("above", "window"),
    "plateau": ("above", "window"),
    "consecutive": ("count", "results"),
    "not_finite": (),
    "level_up": ("steps",),
}
_STRICT = ConfigDict(extra="forbid", frozen=True)


class EffectRule(BaseModel):
    """One effect; see the comments of `effects.yaml` for the fields."""

    model_config = _STRICT

    description: str = ""
    trigger: Trigger
    above: float | None = None
    window: int | None = Field(None, ge=1, le=10_000)
    count: int | None = Field(None, ge=1, le=10_000)
    results: tuple[Grade, ...] = ()
    xp_factor: float = Field(1.0, gt=0, le=10)
    steps: int | None = Field(None, ge=1)
    cooldown: int = Field(0, ge=0)
    blocks_training: bool = False

    @model_validator(mode="after")
    def _needed(self) -> EffectRule:
        lacking = [name for name in _NEEDED[self.trigger] if getattr(self, name) in (None, ())]
        if lacking:
            raise ValueError(f"a trigger {self.trigger} needs {', '.join(lacking)}")
        return self

    @property
    def factor(self) -> Fraction:
        """`xp_factor`, exactly as it is written."""
        return Fraction(str(self.xp_factor))


class EffectRules(BaseModel):
    """All rules by name, and the stance that a hero takes unless it says another."""

    model_config = _STRICT

    schema_version: Literal[1] = 1
    stance: Stance = "thoughtful"
    effects: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], EffectRule] = Field(default_factory=dict)


def read_rules(places: Places) -> EffectRules:
    """The rules of an installation (`configs/effects.yaml`), else those that come with the guild. Raises ConfigError with every fault,
    DamagedFileError."""
    own = places.schedule.with_name(NAME)
    path = own if own.is_file() else FOLDER / NAME
    document: Any = read_yaml(path)
    return resolve(EffectRules, [Layer(str(path), document if isinstance(document, dict) else {"effects": document})]).value
