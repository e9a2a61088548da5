"""What a corruption is, as data: its type and strength, where it may strike, and the numbers of the operators.

Field names are the keys of the run configuration (`corruption.axes.*`, `corruption.params.*`). Nothing here needs
torch. (specs/medic.md, 2.2 to 2.5)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from modelwright.errors import ConfigError, Fault

CORRUPTION_TYPES = (
    "gaussian",
    "dropout_zero",
    "orthogonal_rotation",
    "bitflipish_sparse",
    "quant_noise",
    "contiguous_overwrite",
)
TARGETED: Final = "targeted"
"""A wrapper: runs `targeted_base_type` on the listed layers and heads."""
ALL_TYPES = (*CORRUPTION_TYPES, TARGETED)
NO_EVENT = "none"
"""The type of a clean step."""

DONOR_PROMPT = "Donor: This is a deterministic donor prompt for contiguous KV overwrite evaluation."
EPS_REFERENCE = 0.16
"""The epsilon at which `scaled` severity reaches the full strength of `fixed`."""

ChannelMode = Literal["all", "bernoulli", "targeted"]
TimeMode = Literal["all_past", "old_only", "window"]
Severity = Literal["scaled", "fixed"]


@dataclass(frozen=True)
class Event:
    """One corruption drawn for a unit: its type and its strength `epsilon` (relative to RMS for gaussian, no unit).

    Raises ConfigError for an unknown type or an epsilon that is negative or not finite.
    """

    type: str
    epsilon: float

    def __post_init__(self) -> None:
        faults = []
        if self.type not in (*ALL_TYPES, NO_EVENT):
            faults.append(Fault("corruption type", repr(self.type), ", ".join((*ALL_TYPES, NO_EVENT)), "correct the name"))
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            faults.append(Fault("epsilon", repr(self.epsilon), "a finite number of at least 0", "correct the value"))
        if faults:
            raise ConfigError(faults)

    @property
    def harmless(self) -> bool:
        """Whether the event leaves every tensor as it is."""
        return self.type == NO_EVENT or self.epsilon == 0


CLEAN = Event(NO_EVENT, 0.0)
"""The event of a clean step."""


@dataclass(frozen=True)
class Axes:
    """Where a corruption may strike: `corruption.axes`. A corrupted element lies in all three masks.

    Probabilities in [0, 1]; layers are layer numbers of the model, heads are KV heads; `N_recent` and `window`
    (`[a, b)`) count the tokens of one sequence, padding excluded. Raises ConfigError with every fault at once.
    """

    layer_mode: ChannelMode = "all"
    p_layer: float = 1.0
    layers: tuple[int, ...] | None = None
    head_mode: ChannelMode = "all"
    p_head: float = 1.0
    heads: tuple[int, ...] | None = None
    time_mode: TimeMode = "all_past"
    N_recent: int = 0
    window: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "window"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        faults = [_choice(f"corruption.axes.{name}", getattr(self, name), ChannelMode) for name in ("layer_mode", "head_mode")]
        faults.append(_choice("corruption.axes.time_mode", self.time_mode, TimeMode))
        faults += [_within(f"corruption.axes.{name}", getattr(self, name), 0, 1) for name in ("p_layer", "p_head")]
        faults.append(_within("corruption.axes.N_recent", self.N_recent, 0, math.inf))
        for mode, name in ((self.layer_mode, "layers"), (self.head_mode, "heads")):
            if mode == TARGETED and getattr(self, name) is None:
                faults.append(Fault(f"corruption.axes.{name}", "nothing", "a list of numbers", "list the targets of the targeted mode"))
        if self.window is not None and len(self.window) != 2:
            faults.append(Fault("corruption.axes.window", repr(list(self.window)), "two token positions [a, b]", "give a start and an end"))
        if self.time_mode == "window" and self.window is None:
            faults.append(Fault("corruption.axes.window", "nothing", "two token positions [a, b]", "time_mode window needs it"))
        _raise(faults)


@dataclass(frozen=True)
class OperatorParams:
    """The numbers of the operators: `corruption.params`. Defaults are the canonical values of the specification.

    overwrite_window: token positions [a, b). Raises ConfigError with every fault at once.
    """

    dropout_p: float = 0.02
    bitflip_p: float = 0.0005
    bitflip_eps_jump: float = 8.0
    quant_bits: int = 8
    rotation_seed: int = 999
    overwrite_window: tuple[int, int] = (16, 48)
    donor_prompt: str = DONOR_PROMPT
    targeted_base_type: str = "gaussian"

    def __post_init__(self) -> None:
        object.__setattr__(self, "overwrite_window", tuple(self.overwrite_window))
        faults = [_within(f"corruption.params.{name}", getattr(self, name), 0, 1) for name in ("dropout_p", "bitflip_p")]
        faults.append(_within("corruption.params.bitflip_eps_jump", self.bitflip_eps_jump, 0, math.inf))
        faults.append(_within("corruption.params.quant_bits", self.quant_bits, 2, 16))
        faults.append(_within("corruption.params.rotation_seed", self.rotation_seed, 0, math.inf))
        if len(self.overwrite_window) != 2 or min(self.overwrite_window) < 0:
            found = repr(list(self.overwrite_window))
            faults.append(Fault("corruption.params.overwrite_window", found, "two token positions [a, b] of at least 0", "correct them"))
        if self.targeted_base_type not in CORRUPTION_TYPES:
            name, found = "corruption.params.targeted_base_type", repr(self.targeted_base_type)
            faults.append(Fault(name, found, ", ".join(CORRUPTION_TYPES), "name the operator that targeted shall run"))
        _raise(faults)


def unwrap(event: Event, axes: Axes, params: OperatorParams) -> tuple[Event, Axes]:
    """The event and axes that really run: `targeted` becomes its base type on targeted layers and heads.

    Wherever the lists `layers` and `heads` are present their mode is forced to `targeted`. Any other event comes back
    as it is. Raises ConfigError when `targeted` is asked for and neither list is present.
    """
    if event.type != TARGETED:
        return event, axes
    if axes.layers is None and axes.heads is None:
        todo = "list the layers, the heads or both that targeted shall strike"
        raise ConfigError([Fault("corruption.axes", "neither layers nor heads", "at least one of the two lists", todo)])
    forced = replace(
        axes,
        layer_mode=axes.layer_mode if axes.layers is None else TARGETED,
        head_mode=axes.head_mode if axes.heads is None else TARGETED,
    )
    return replace(event, type=params.targeted_base_type), forced


def severity_share(epsilon: float, severity: Severity) -> float:
    """`tau`, the share of full strength that the operators other than gaussian act with.

    `min(1, epsilon / 0.16)` under `scaled`; 1 under `fixed`, where epsilon is a mere switch (and 0 at epsilon = 0).
    """
    _raise([_choice("corruption.severity", severity, Severity)])
    if epsilon == 0:
        return 0.0
    return 1.0 if severity == "fixed" else min(1.0, epsilon / EPS_REFERENCE)


def _choice(path: str, value: object, choices: object) -> Fault | None:
    allowed = get_args(choices)
    return None if value in allowed else Fault(path, repr(value), ", ".join(allowed), "correct the name")


def _within(path: str, value: float, low: float, high: float) -> Fault | None:
    if low <= value <= high:
        return None
    allowed = f"at least {low}" if high == math.inf else f"{low} to {high}"
    return Fault(path, repr(value), allowed, "correct the value")


def _raise(faults: list[Fault | None]) -> None:
    found = [fault for fault in faults if fault is not None]
    if found:
        raise ConfigError(found)
