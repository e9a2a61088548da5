"""Context methods: how a model's rotary embedding is stretched from its original context to a longer one.

`get_method("yarn")` answers with an object of the protocol in `base.py`; `available()` lists the ids. Built in are
`linear`, `ntk`, `dynamic_ntk` and `yarn`; other packages add theirs through the entry-point group
`scaler_wizard.context_methods`, under an id that is not taken. `choose_method` is the rule behind `--context-method
auto`. Importing this package does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from modelwright.errors import ConfigError, Fault, UsageError

if TYPE_CHECKING:
    from scaler_wizard.context_methods.base import ContextMethod

GROUP = "scaler_wizard.context_methods"
NTK_UP_TO = 32_768
BUILT_IN: Mapping[str, str] = {name: f"{__name__}.{name}" for name in ("linear", "ntk", "dynamic_ntk", "yarn")}


def available() -> list[str]:
    """The ids of every method, built-in ones first, without loading third-party code."""
    return [*BUILT_IN, *sorted(set(_third_party()) - set(BUILT_IN))]


def get_method(method_id: str) -> ContextMethod:
    """The method of that id.

    Raises ConfigError for an unknown id, with the nearest valid one, and UsageError for a third-party method that
    cannot be used: it fails to load, does not follow the protocol, or claims the id of another one.
    """
    from scaler_wizard.context_methods.base import ContextMethod

    if method_id in BUILT_IN:
        method: ContextMethod = import_module(BUILT_IN[method_id]).METHOD
        return method
    found = _third_party().get(method_id, [])
    if not found:
        near = get_close_matches(method_id, available(), n=1)
        todo = f"did you mean {near[0]}?" if near else "choose one of them"
        raise ConfigError([Fault("scaling.context_method", repr(method_id), "one of " + ", ".join(available()), todo)])
    if len(found) > 1:
        owners = " and ".join(sorted(entry.value for entry in found))
        raise UsageError(f"The context method {method_id!r} is provided by {owners}: uninstall all but one.")
    entry = found[0]
    try:
        loaded = entry.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"The context method {method_id!r} ({entry.value}) does not load: {error}.") from error
    loaded = loaded() if isinstance(loaded, type) else loaded
    if not isinstance(loaded, ContextMethod) or loaded.id != method_id:
        raise UsageError(
            f"The context method {method_id!r} ({entry.value}) does not follow the protocol of "
            "scaler_wizard.context_methods.base: "
            "it needs id (equal to its entry-point name), needs_finetune, dynamic, supports, parameters, inv_freq, "
            "apply and revert."
        )
    return loaded


def choose_method(target: int) -> str:
    """The id that `auto` stands for: `ntk` up to 32,768 tokens, `yarn` above (specs, section 1.4)."""
    return "ntk" if target <= NTK_UP_TO else "yarn"


def _third_party() -> dict[str, list[EntryPoint]]:
    """Entry points of other packages by id. A built-in id cannot be replaced: `get_method` never looks here for one."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name, []).append(entry)
    return found
