"""Adapter strategies by name: `lora`, `qlora`, and whatever other packages register as entry points."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.metadata import entry_points

from modelwright.errors import ConfigError, Fault
from scaler_wizard.strategies.base import ScalerStrategy, StrategyPlan, Support, TrainableShare

ENTRY_POINT_GROUP = "scaler_wizard.strategies"
BUILT_IN = ("lora", "qlora")

__all__ = ["ENTRY_POINT_GROUP", "ScalerStrategy", "StrategyPlan", "Support", "TrainableShare", "get", "names"]


def names() -> list[str]:
    """Every strategy that can be asked for, built-in ones first."""
    registered = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)}
    return [*BUILT_IN, *sorted(registered - set(BUILT_IN))]


def get(name: str) -> ScalerStrategy:
    """The strategy called `name`.

    Raises ConfigError when there is none, naming the nearest.
    """
    if name == "lora":
        from scaler_wizard.strategies.lora import LoraStrategy

        return LoraStrategy()
    if name == "qlora":
        from scaler_wizard.strategies.qlora import QloraStrategy

        return QloraStrategy()
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        strategy = point.load()()
        if not isinstance(strategy, ScalerStrategy):
            raise ConfigError(
                [
                    Fault(
                        "scaling.strategy",
                        f"{name}, which {point.value} registers without the methods of a strategy",
                        "a class with supports, plan, prepare, trainable_parameters, save, load and unload",
                        "report it to that package, or choose lora",
                    )
                ]
            )
        return strategy
    known = names()
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    raise ConfigError(
        [
            Fault(
                "scaling.strategy",
                name,
                ", ".join(known),
                f"did you mean {close[0]}?" if close else "choose one of these",
            )
        ]
    )
