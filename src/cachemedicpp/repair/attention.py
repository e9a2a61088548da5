"""The attention function of CacheMedic: an optional corruption hook, then the repair, then the library's attention.

One name is registered with the library (`NAME`, with the mask of sdpa); inside `protecting(model, operator)` the protected
layers run with it and every other layer is plain sdpa. Model classes are not touched, so any decoder model of the library
works, with any batch and any number of KV heads. (specs/medic.md, 3.1, 3.4 and 12)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cachemedicpp.repair.cache import Checks, layer_term
from cachemedicpp.repair.forms import (
    Form,
    FormError,
    Kernel,
    collapsed,
    extend,
    extended_stored,
    materialised,
    require_form,
    wide_attention,
)
from cachemedicpp.repair.operator import Coefficients, LayerRepair, RepairOperator, layout_of
from cachemedicpp.repair.row_plan import collapsed_rows, extended_rows
from modelwright.attention import register_attention, sdpa, use_attention
from modelwright.errors import ConfigError, Fault, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "cachemedic"
REPAIRABLE_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
UNSUPPORTED_OPTIONS = ("softcap", "s_aux", "position_bias")

Observer = Callable[[int, Tensor, Tensor, Tensor], None]
"""Hears layer, query `[B, Hq, Tq, d]`, key and value `[B, Hkv, T, d]` as the repair gets them, corruption included."""


class CorruptionHook(Protocol):
    """What the `corrupt` argument takes: keys and values `[B, Hkv, T, d]` in, the pair that attention uses out.

    starts: first token of each row that is no padding, `[B]`, None where nothing is masked.
    """

    def __call__(self, layer: int, key: Tensor, value: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]: ...


@dataclass
class _Protected:
    """One protected layer inside one `protecting` block."""

    layer: int
    repair: LayerRepair | None
    form: Form
    corrupt: CorruptionHook | None
    observe: Observer | None
    checks: tuple[Tensor | None, Tensor | None]
    detach: bool

    def __call__(
        self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, options: Any
    ) -> tuple[Tensor, Tensor | None]:
        def kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
            return sdpa(module, query, key, value, mask, scale, **options)[0].transpose(1, 2)

        head_dim = query.shape[-1]
        if scaling is None:
            scaling = head_dim**-0.5
        extended_cache = key.shape[-1] > head_dim or value.shape[-1] > head_dim
        written: tuple[Tensor, Tensor] | None = None
        if extended_cache and self.form == "extended" and self.corrupt is None and self.repair is not None:
            return _given(self._from_cache(query, key, value, mask, scaling, kernel))
        if extended_cache:
            self._require_no_checks()
            key, value = key[..., :head_dim], value[..., :head_dim]
        if self.corrupt is not None:
            written = (key, value)
            key, value = self.corrupt(self.layer, key, value, starts_in(mask))
        if self.observe is not None:
            self.observe(self.layer, query, key, value)
        if self.detach:
            key, value = key.detach(), value.detach()
        if self.repair is None:
            return _given(kernel(query, key, value, mask, scaling))
        per_row = self.repair.spec.gate_rows == "per_query" or query.shape[2] == 1
        if self.form == "collapsed" and per_row and (plan := self.repair.row_plan()) is not None:
            return _given(collapsed_rows(query, key, value, mask, scaling, plan, kernel))
        coefficients = self.repair.coefficients(query, self.detach)
        if self.form == "collapsed":
            return _given(collapsed(query, key, value, mask, scaling, coefficients, kernel))
        key_terms, value_terms = self._terms(coefficients, key, value, written, mask)
        if self.form == "materialised":
            # Its keys differ for every query head, so the library's kernel, which repeats KV heads, does not fit.
            return _given(materialised(query, key, value, mask, scaling, coefficients, key_terms, value_terms))
        key = key if key_terms is None else extend(key, key_terms)
        value = value if value_terms is None else extend(value, value_terms)
        return _given(extended_stored(query, key, value, mask, scaling, coefficients, kernel))

    def _from_cache(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, kernel: Kernel) -> Tensor:
        """The extended form with the terms that a `RepairLayer` stored."""
        assert self.repair is not None
        per_row = self.repair.spec.gate_rows == "per_query" or query.shape[2] == 1
        if self.observe is None and per_row and (plan := self.repair.row_plan("extended")) is not None:
            attend = partial(wide_attention, kernel=kernel)
            return extended_rows(query, key, value, mask, scaling, plan, self.repair.spec.token_gate is not None, attend)
        coefficients = self.repair.coefficients(query, self.detach)
        trained = any(x is not None and x.requires_grad for x in (coefficients.w, coefficients.wv))
        if trained and torch.is_grad_enabled():
            raise UsageError(
                "The extended cache keeps its terms without gradient, so the operator would be trained in part only; train with a plain "
                "DynamicCache, or run under torch.no_grad()."
            )
        if self.observe is not None:
            self.observe(self.layer, query, key[..., : query.shape[-1]], value[..., : query.shape[-1]])
        return extended_stored(query, key, value, mask, scaling, coefficients, kernel)

    def _require_no_checks(self) -> None:
        gated = None if self.repair is None else self.repair.spec.token_gate
        if gated is not None and gated.checksum and self.corrupt is None:
            raise UsageError(
                f"The form {self.form!r} cannot read the checksums that the extended cache of layer {self.layer} keeps; use the extended "
                "form, or a plain DynamicCache and the argument checks."
            )

    def _terms(
        self, c: Coefficients, key: Tensor, value: Tensor, written: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The terms of all tokens, computed now; the value side has some only with a token-dependent gate."""
        assert self.repair is not None
        gated = self.repair.spec.token_gate
        starts = starts_in(mask) if gated is not None and gated.neighbour else None
        key_check, value_check = self.checks
        if gated is not None and gated.checksum:
            clean_key, clean_value = written or (key, value)
            key_check = _completed(self.repair.key, key_check, clean_key)
            value_check = _completed(self.repair.value, value_check, clean_value)
        return (
            None if c.a is None else layer_term(self.repair, "keys", key, key_check, None, starts),
            None if c.b is None or gated is None else layer_term(self.repair, "values", value, value_check, None, starts),
        )


# The library keeps attention functions for the whole process and hands each call the module it is for; what to do with
# that module is looked up here, only while a `protecting` block is open.
_ACTIVE: WeakKeyDictionary[torch.nn.Module, _Protected] = WeakKeyDictionary()


@contextmanager
def protecting(
    model: PreTrainedModel,
    operator: RepairOperator | None,
    form: Form | None = None,
    *,
    corrupt: CorruptionHook | None = None,
    observe: Observer | None = None,
    layers: Sequence[int] | None = None,
    checks: Checks | None = None,
    detach: bool = False,
) -> Iterator[None]:
    """Run the protected layers of `model` with corruption and repair inside the block.

    operator: None for no repair, only `corrupt` and `observe`. form: how the repair runs; None for the form that serves
    (extended for family D, else collapsed). layers: protected layers when there is no operator, or fewer than it
    protects. checks: the checksums of tokens cached before they were damaged, for family D with `checksum` and a plain
    cache; newer tokens count as undamaged. detach: keys, values and the queries of the gates carry no gradient into
    `observe`d activations (4.1, step 4). With a cache from `extend_cache` the terms of the extended form are read from
    it, otherwise they are computed for all tokens in every call.

    Raises ConfigError with every reason why the model cannot be protected (FormError for the form).
    """
    chosen = form or (operator.spec.serving_form if operator is not None else "collapsed")
    if operator is not None:
        require_form(chosen, operator.spec, operator.layout.head_dim)
    protected = tuple(layers) if layers is not None else (operator.spec.protect_layers if operator is not None else ())
    modules = _attention_modules(model, protected)
    if faults := _faults(model, operator, protected, modules):
        raise ConfigError(faults)
    register_attention(NAME, _attend)
    before = {}
    with use_attention(model, NAME):
        try:
            for layer in protected:
                repair = None if operator is None else operator.layer(layer)
                entry = _Protected(layer, repair, chosen, corrupt, observe, (checks or {}).get(layer, (None, None)), detach)
                before[layer] = _ACTIVE.get(modules[layer])
                _ACTIVE[modules[layer]] = entry
            yield
        finally:
            for layer, previous in before.items():
                if previous is None:
                    del _ACTIVE[modules[layer]]
                else:
                    _ACTIVE[modules[layer]] = previous


def starts_in(mask: Tensor | None) -> Tensor | None:
    """The first key that the newest query row sees, `[B]` int64, from a mask `[B, 1, Tq, T]`; None without a mask.

    With left padding that is the first real token; in a sliding-window layer the first token of the window.
    """
    if mask is None:
        return None
    row = mask[:, 0, -1]
    seen = row if row.dtype == torch.bool else row > torch.finfo(row.dtype).min / 2
    return seen.int().argmax(dim=-1)


def _attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    protected = _ACTIVE.get(module)
    if protected is None:
        return sdpa(module, query, key, value, mask, scaling, **options)
    for name in UNSUPPORTED_OPTIONS:
        if options.get(name) is not None:
            raise FormError(
                [Fault(f"the option {name} of the model's attention", "a value", "none", f"{NAME} runs on sdpa, which lacks it")]
            )
    return protected(module, query, key, value, mask, scaling, options)


def _given(output: Tensor) -> tuple[Tensor, None]:
    """`[B, Hq, Tq, d]` to the `[B, Tq, Hq, d]` of the library's interface."""
    return output.transpose(1, 2), None


def _completed(side: Any, check: Tensor | None, written: Tensor) -> Tensor | None:
    """Checksums of all tokens: those kept, then those of newer tokens as they are now."""
    if side is None:
        return None
    now: Tensor = side.check(written)
    return now if check is None else torch.cat([check.to(now), now[:, :, check.shape[2] :]], dim=2)


def _attention_modules(model: torch.nn.Module, layers: Sequence[int]) -> dict[int, torch.nn.Module]:
    """The attention module of each layer: the modules named so that carry its `layer_idx`."""
    found: dict[int, torch.nn.Module] = {}
    for module in model.modules():
        index = getattr(module, "layer_idx", None)
        if isinstance(index, int) and index in layers and "attention" in type(module).__name__.lower():
            found.setdefault(index, module)
    return found


def _faults(model: Any, operator: RepairOperator | None, protected: Sequence[int], modules: dict[int, torch.nn.Module]) -> list[Fault]:
    faults = []
    config = model.config.get_text_config()
    if getattr(config, "kv_lora_rank", None):
        todo = "a latent cache holds neither keys nor values of heads; protect a model with a plain KV cache"
        faults.append(Fault("model", f"latent attention (kv_lora_rank {config.kv_lora_rank})", "multi-head or grouped attention", todo))
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "add_cross_attention", False):
        faults.append(Fault("model", "cross attention", "a decoder-only model"))
    if not protected:
        faults.append(Fault("layers", "no layer", "at least one layer to protect"))
    kinds = getattr(config, "layer_types", None) or []
    for layer in protected:
        if layer < len(kinds) and kinds[layer] not in REPAIRABLE_LAYERS:
            faults.append(Fault(f"layer {layer}", f"a layer of the type {kinds[layer]}", ", ".join(sorted(REPAIRABLE_LAYERS))))
        elif layer not in modules:
            faults.append(Fault("layers", str(layer), f"attention layers of the model, 0 to {config.num_hidden_layers - 1}"))
        if operator is not None and layer not in operator.spec.protect_layers:
            faults.append(Fault("layers", str(layer), f"layers of the operator, {', '.join(map(str, operator.spec.protect_layers))}"))
    if operator is not None and not faults and operator.layout != (layout := layout_of(model)):
        faults.append(Fault("operator", str(operator.layout), f"the heads of the model, {layout}", "build it with layout_of(model)"))
    return faults
