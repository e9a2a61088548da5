"""Rules between the keys of a run configuration, and what only the model or the whole configuration can answer.

`rule_faults` reads the plain document, not the typed one, and skips a rule whose keys have the wrong type: so faults of
both kinds are reported together. (specs/medic.md, 7.1 conditional checks; 2.2, 2.5 [C4], 3.2 [C10], 5.1 [C21], 12.4)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from string import Formatter
from typing import TYPE_CHECKING, Any

from cachemedicpp.config.sections import WORDING_NAMES
from modelwright.errors import ConfigError, Fault

if TYPE_CHECKING:
    from cachemedicpp.config.sections import RunConfig
    from modelwright.model_shape import ModelShape

MISSING = object()


def at(document: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, or `MISSING`."""
    current: Any = document
    for part in path.split("."):
        if not isinstance(current, Mapping) or part not in current:
            return MISSING
        current = current[part]
    return current


def rule_faults(document: Mapping[str, Any]) -> list[Fault]:
    """Every broken rule between keys of a run configuration; `document` has its derived defaults filled in."""
    rules: tuple[Callable[[Mapping[str, Any]], list[Fault]], ...] = (
        _axes,
        _windows,
        _family,
        _layers,
        _targeted_type,
        _reproduction,
        _stored_tail,
        _repeated,
        _question,
        _wording,
    )
    return [fault for rule in rules for fault in rule(document)]


def check_against_model(config: RunConfig, shape: ModelShape) -> None:
    """Raise ConfigError with every value that the model cannot carry: layers, KV heads, rank, lengths."""
    faults = []
    for path, layers in (("repair.protect_layers", config.repair.protect_layers), ("stability.layers", config.stability.layers)):
        beyond = [layer for layer in layers if layer >= shape.layers]
        if beyond:
            faults.append(Fault(path, _listed(beyond), f"layers 0 to {shape.layers - 1} of {config.model.name}", "name layers it has"))
    beyond = [head for head in config.stability.head_subset or () if head >= shape.kv_heads]
    if beyond:
        faults.append(Fault("stability.head_subset", _listed(beyond), f"KV heads 0 to {shape.kv_heads - 1}", "name heads it has"))
    if config.repair.rank > shape.head_dim:
        faults.append(Fault("repair.rank", str(config.repair.rank), f"at most the head dimension, {shape.head_dim}", "lower it"))
    for path, length in (("train.prefix_len", config.train.prefix_len), ("eval.max_seq_len", config.eval.max_seq_len)):
        if length > shape.context:
            faults.append(Fault(path, f"{length} tokens", f"at most the {shape.context} tokens of the model's window", "lower it"))
    if faults:
        raise ConfigError(faults)


def config_warnings(config: RunConfig) -> list[str]:
    """One sentence per setting that is allowed and most likely not meant."""
    axes, train, said = config.corruption.axes, config.train, []
    cached = train.prefix_len - (train.tail_len if config.corruption.inject == "stored" else 0)
    if axes.time_mode == "old_only" and axes.N_recent >= cached:
        said.append(
            f"corruption.axes.N_recent is {axes.N_recent} and training caches {cached} tokens, so no step of training is ever "
            "corrupted; lower N_recent or raise train.prefix_len."
        )
    if axes.time_mode == "window" and axes.window is not None and axes.window[0] >= cached:
        said.append(
            f"corruption.axes.window starts at {axes.window[0]} and training caches {cached} tokens, so no step of training is ever "
            "corrupted; move the window or raise train.prefix_len."
        )
    return said


# ---------------------------------------------------------------------- the rules


def _axes(document: Mapping[str, Any]) -> list[Fault]:
    faults = []
    for mode, probability, targets in (("layer_mode", "p_layer", "layers"), ("head_mode", "p_head", "heads")):
        value = at(document, f"corruption.axes.{mode}")
        if value == "bernoulli" and at(document, f"corruption.axes.{probability}") is MISSING:
            faults.append(_needed(f"corruption.axes.{probability}", "a probability from 0 to 1", f"{mode} bernoulli"))
        if value == "targeted" and at(document, f"corruption.axes.{targets}") in (MISSING, None, []):
            faults.append(_needed(f"corruption.axes.{targets}", "a list of numbers", f"{mode} targeted"))
    return faults


def _windows(document: Mapping[str, Any]) -> list[Fault]:
    faults = []
    for section in ("corruption.axes", "stability"):
        if at(document, f"{section}.time_mode") == "window" and at(document, f"{section}.window") in (MISSING, None):
            faults.append(_needed(f"{section}.window", "two token positions [a, b]", "time_mode window"))
    for path in ("corruption.axes.window", "corruption.params.overwrite_window", "stability.window"):
        pair = at(document, path)
        if whole_numbers(pair) and len(pair) == 2 and pair[0] >= pair[1]:
            faults.append(Fault(path, str(list(pair)), "[a, b] with a below b, b not included", "exchange or move them"))
    return faults


def _family(document: Mapping[str, Any]) -> list[Fault]:
    family = at(document, "repair.family")
    if family not in ("A", "B", "C", "D"):
        return []
    faults = []
    conditioning, token_gate = at(document, "repair.conditioning"), at(document, "repair.token_gate")
    if family == "C" and conditioning in (MISSING, None):
        allowed = "a mapping with use_layer_embedding, use_head_embedding"
        faults.append(_needed("repair.conditioning", allowed, "family C"))
    if family != "C" and isinstance(conditioning, Mapping):
        faults.append(_foreign("repair.conditioning", "C", family))
    if family == "D" and token_gate is None:
        faults.append(_needed("repair.token_gate", "a mapping with hidden, basis, neighbour, checksum", "family D"))
    if family != "D" and isinstance(token_gate, Mapping):
        faults.append(_foreign("repair.token_gate", "D", family))
    if family == "D" and at(document, "repair.form") == "collapsed":
        todo = "its gate looks at each cached token, which the collapsed form never does; leave repair.form out"
        faults.append(Fault("repair.form", "'collapsed' with family D", "extended, materialised", todo))
    base = at(document, "repair.base")
    if family == "C" and base is None:
        faults.append(_needed("repair.base", "A, B", "family C"))
    if family != "C" and isinstance(base, str):
        faults.append(_foreign("repair.base", "C", family, repr(base)))
    on_b = family == "B" or (family == "C" and base == "B")
    if not on_b and at(document, "repair.orthonormal") is True:
        faults.append(_foreign("repair.orthonormal", "B, and to C with repair.base B", family, "true"))
    return faults


def _layers(document: Mapping[str, Any]) -> list[Fault]:
    protected, measured = at(document, "repair.protect_layers"), at(document, "stability.layers")
    if not (whole_numbers(protected) and whole_numbers(measured)):
        return []
    outside = sorted(set(measured) - set(protected))
    if not outside:
        return []
    todo = "without repair in a layer its two curves are one; leave stability.layers out to measure every protected layer"
    return [Fault("stability.layers", _listed(outside), f"layers of repair.protect_layers ({_listed(protected)})", todo)]


def _targeted_type(document: Mapping[str, Any]) -> list[Fault]:
    types = at(document, "eval.corruption_eval.types")
    asked = isinstance(types, Sequence) and not isinstance(types, str) and "targeted" in types
    return targeted_faults(document, "eval.corruption_eval.types") if asked else []


def targeted_faults(document: Mapping[str, Any], asked_by: str) -> list[Fault]:
    """The fault of asking for the type `targeted` without any target. [C4]"""
    if any(at(document, f"corruption.axes.{name}") not in (MISSING, None, []) for name in ("layers", "heads")):
        return []
    todo = f"{asked_by} names the type targeted: say which layers, heads or both it shall strike"
    return [Fault("corruption.axes", "neither layers nor heads", "at least one of the two lists", todo)]


def _reproduction(document: Mapping[str, Any]) -> list[Fault]:
    """What exists to reproduce the original shares its limits: one sequence at a time, no perplexity with the last row's gate."""
    faults = []
    last_row, inline = at(document, "repair.gate_rows") == "last", at(document, "corruption.inject") == "inline"
    batch, tasks = at(document, "train.batch_size"), at(document, "eval.tasks")
    if (last_row or inline) and isinstance(batch, int) and batch > 1:
        why = "repair.gate_rows last" if last_row else "corruption.inject inline"
        faults.append(Fault("train.batch_size", f"{batch} with {why}", "1", "reproduction of the original runs one sequence at a time"))
    named = [task.get("name") for task in tasks if isinstance(task, Mapping)] if isinstance(tasks, Sequence) else []
    if last_row and "wikitext2_ppl" in named:
        todo = (
            "one gate for all rows lets a later token alter earlier logits, so no perplexity may be taken; drop wikitext2_ppl or this key"
        )
        faults.append(Fault("repair.gate_rows", "'last' with the task wikitext2_ppl", "per_query", todo))
    return faults


def _stored_tail(document: Mapping[str, Any]) -> list[Fault]:
    if at(document, "corruption.inject") == "inline":
        return []
    faults = []
    if at(document, "model.use_cache") is False:
        todo = "inject stored damages the cache that the model keeps; set it to true"
        faults.append(Fault("model.use_cache", "false with corruption.inject stored", "true", todo))
    prefix, tail = at(document, "train.prefix_len"), at(document, "train.tail_len")
    tail = 1 if tail is MISSING else tail
    if whole_numbers([prefix, tail]) and tail >= prefix >= 1:
        allowed = f"below train.prefix_len ({prefix})"
        faults.append(Fault("train.tail_len", f"{tail} tokens", allowed, "the tokens before the tail are what is cached and damaged"))
    return faults


def _repeated(document: Mapping[str, Any]) -> list[Fault]:
    faults = []
    tasks = at(document, "eval.tasks")
    if isinstance(tasks, Sequence) and not isinstance(tasks, str):
        faults += _twice("eval.tasks", [task.get("name") for task in tasks if isinstance(task, Mapping)])
    for path in (
        "repair.protect_layers",
        "stability.layers",
        "stability.head_subset",
        "stability.delta_norms",
        "eval.corruption_eval.types",
        "eval.needle_values",
    ):
        faults += _twice(path, at(document, path))
    eps = at(document, "eval.corruption_eval.eps")
    numbers = isinstance(eps, Sequence) and all(isinstance(value, (int, float)) for value in eps)
    if numbers and any(later <= earlier for earlier, later in pairwise(eps)):
        faults.append(Fault("eval.corruption_eval.eps", _listed(eps), "rising numbers", "the area under the curve runs from left to right"))
    return faults


def _question(document: Mapping[str, Any]) -> list[Fault]:
    path = "data.long_context.question_template"
    template = at(document, path)
    if not isinstance(template, str):
        return []
    try:
        template.format(needle_token="x")
    except (KeyError, IndexError, ValueError, AttributeError):
        return [Fault(path, repr(template), "text with no other placeholder than {needle_token}", "write a plain brace twice")]
    return []


def _wording(document: Mapping[str, Any]) -> list[Fault]:
    path = "eval.sst2_wording"
    wording = at(document, path)
    if not isinstance(wording, str) or wording in WORDING_NAMES or text_slot(wording) is not None:
        return []
    allowed = f"{', '.join(WORDING_NAMES)}, or text with {{text}} once and no other placeholder"
    return [Fault(path, repr(wording), allowed, "write {text} where the review stands, and a plain brace twice")]


def text_slot(template: str) -> tuple[str, str] | None:
    """What stands before and behind the one slot `{text}` of `template`, doubled braces single; None without exactly that slot."""
    parts = ["", ""]
    slots = 0
    try:
        for literal, name, form, conversion in Formatter().parse(template):
            parts[min(slots, 1)] += literal
            if name is None:
                continue
            if name != "text" or form or conversion:
                return None
            slots += 1
    except ValueError:
        return None
    return (parts[0], parts[1]) if slots == 1 else None


# ---------------------------------------------------------------------- words


def _needed(path: str, allowed: str, by: str) -> Fault:
    return Fault(path, "nothing", allowed, f"{by} needs it")


def _foreign(path: str, owner: str, family: str, found: str = "a mapping") -> Fault:
    return Fault(path, f"{found} with family {family}", "nothing or null" if found != "true" else "false", f"it belongs to family {owner}")


def _twice(path: str, values: Any) -> list[Fault]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        return []
    seen = [value for index, value in enumerate(values) if value in values[:index]]
    return [Fault(path, f"{_listed(seen[:1])} twice", "every entry once", "remove the repetition")] if seen else []


def whole_numbers(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str) and all(type(value) is int for value in values)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values)
