"""The one door to keys and values: functions in the Hugging Face attention registry, never patched model classes.

A registered function is called by every attention layer of every model that follows the library's interface (Llama,
Qwen, Mistral, GPT-2 and the rest), after rotary embedding and after the cache update:

    fn(module, query, key, value, mask, scaling, **options) -> (output, weights or None)

    query  [B, H, Tq, d]      key, value  [B, Hkv, Tk, d]  (not yet repeated for grouped queries)
    mask   bool or float [B, 1, Tq, Tk], or None where plain causal attention holds
    output [B, Tq, H, d]

It changes what it wants and hands the rest to `sdpa`, the library's own scaled-dot-product attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from modelwright.errors import UsageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BUILT_IN = frozenset({"eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4"})


class AttentionFunction(Protocol):
    """What `register_attention` takes; see the module's description for shapes. `scaling` is None for 1/sqrt(d)."""

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float | None,
        **options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]: ...


def register_attention(name: str, function: AttentionFunction, mask: str = "sdpa") -> None:
    """Make `function` available under `name`, with the mask that the built-in implementation `mask` gets.

    The registry is the library's and lives as long as the process; registering a name again replaces its function.
    Without its own mask entry a custom name would get no mask at all, and padding would be seen. Raises UsageError
    for a name of the library itself.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    if name in BUILT_IN or "|" in name:
        raise UsageError(
            f"The attention name {name!r} belongs to the library; choose another, for example modelwright_{name.split('|')[-1]}."
        )
    masks = AttentionMaskInterface()
    if mask not in masks:
        raise UsageError(f"The attention mask {mask!r} is unknown; allowed are {', '.join(sorted(masks))}.")

    def entry(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return function(module, query, key, value, attention_mask, scaling, **options)

    AttentionInterface.register(name, entry)
    AttentionMaskInterface.register(name, masks[mask])


def sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The library's scaled-dot-product attention with the arguments of an `AttentionFunction`."""
    from transformers import AttentionInterface

    return AttentionInterface()["sdpa"](module, query, key, value, mask, scaling=scaling, **options)


@contextmanager
def use_attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Run `model` with the registered attention `name` inside the block, and with exactly what it had before
    afterwards.

    Works on a PEFT model too. Raises UsageError when the name is not registered or the model does not go through the
    registry.
    """
    from transformers import AttentionInterface
    from transformers import PreTrainedModel as Base

    if name != "eager" and name not in AttentionInterface():
        raise UsageError(f"The attention {name!r} is not registered; call register_attention first.")
    # One config object may be shared by several modules; each is switched and restored once.
    configs = {id(part.config): part.config for part in model.modules() if isinstance(part, Base)}
    # The internal name is set, as the library does itself: the public setter would spread the value over sub-configs.
    before = [(config, config._attn_implementation_internal) for config in configs.values()]
    for part in model.modules():
        if isinstance(part, Base) and not part._can_set_attn_implementation():
            raise UsageError(f"{type(part).__name__} does not use the attention registry, so its attention cannot be replaced.")
    try:
        for config, _ in before:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation_internal = implementation


@dataclass(frozen=True)
class Seen:
    """What one attention call looked like: layer number and the shapes of query, key and value as given to the
    function.
    """

    layer: int
    query: tuple[int, ...]
    key: tuple[int, ...]
    value: tuple[int, ...]
    masked: bool


def observe(sink: Callable[[Seen], None]) -> AttentionFunction:
    """An attention function that reports every call to `sink` and leaves the computation to `sdpa`: the smallest
    complete example.
    """

    def observing(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float | None,
        **options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        layer = int(getattr(module, "layer_idx", -1))
        sink(Seen(layer, tuple(query.shape), tuple(key.shape), tuple(value.shape), mask is not None))
        return sdpa(module, query, key, value, mask, scaling, **options)

    return observing
