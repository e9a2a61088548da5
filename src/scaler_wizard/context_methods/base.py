"""What a context method is, and the one implementation shared by those that rescale RoPE.

A method answers four questions: can it stretch this model (`supports`), what must the configuration say then
(`parameters`), which frequencies follow from that (`inv_freq`, our own arithmetic), and how is a live model switched
there and back (`apply`, `revert`).

`parameters` returns exactly the keys to write into `config.json`, so the same dictionary patches a live model, an
exported configuration and the run's metadata:

    {"rope_parameters": {...}, "max_position_embeddings": 2048, "context_extension": {"method": "yarn", ...}}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from modelwright.errors import ConfigError, Fault
from scaler_wizard.context_methods.compatibility import check_patch_loads, stretch_warnings
from scaler_wizard.context_methods.settings import (
    RECORD,
    RopeSettings,
    UnsupportedContextError,
    read_settings,
)
from scaler_wizard.context_methods.validation import is_whole

if TYPE_CHECKING:
    from torch import Tensor

    from scaler_wizard.context_methods.apply import AppliedContext


@dataclass(frozen=True)
class Support:
    """Whether a method can stretch a model: `reason` says why not, `warnings` what to keep in mind when it can."""

    ok: bool
    reason: str = ""
    warnings: tuple[str, ...] = ()


@runtime_checkable
class ContextMethod(Protocol):
    """The protocol of the entry-point group `scaler_wizard.context_methods`.

    `config` is a transformers configuration or the mapping of a config.json; lengths are in tokens.
    """

    @property
    def id(self) -> str: ...
    @property
    def needs_finetune(self) -> bool: ...
    @property
    def dynamic(self) -> bool: ...

    def supports(self, config: Any) -> Support: ...
    def parameters(self, config: Any, target: int, **opts: Any) -> dict[str, Any]: ...
    def inv_freq(self, config: Any, target: int, seq_len: int | None = None, **opts: Any) -> tuple[Tensor, float]: ...
    def apply(self, model: Any, params: Mapping[str, Any]) -> AppliedContext: ...
    def revert(self, model: Any, applied: AppliedContext) -> None: ...


class Options(Protocol):
    """Options of one method: a frozen dataclass that can list its own faults."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def faults(self) -> list[Fault]: ...


@dataclass(frozen=True)
class Stretch:
    """One computed extension: what `parameters` and `inv_freq` are both derived from.

    `factor` is L'/L; `given` holds `original_context` when the caller stated it instead of the configuration.
    """

    settings: RopeSettings
    target: int
    factor: float
    options: Any
    given: Mapping[str, int]


@dataclass(frozen=True)
class RopeMethod:
    """A context method that rescales RoPE, built from two plain functions.

    `realise(stretch)` gives the `rope_parameters` in transformers' words (without the base model's extra keys);
    `reference(stretch, seq_len)` gives the frequencies [d/2] and the attention factor by our own arithmetic.
    `keeps_length` leaves `max_position_embeddings` at the original context, which dynamic NTK scales relative to.
    """

    id: str
    options_type: type
    realise: Callable[[Stretch], dict[str, Any]]
    reference: Callable[[Stretch, int | None], tuple[list[float], float]]
    needs_finetune: bool = True
    dynamic: bool = False
    keeps_length: bool = False

    def supports(self, config: Any) -> Support:
        """Whether this method can stretch the model, decided from its configuration alone. Never raises for an
        unsuitable model.
        """
        try:
            settings = read_settings(config)
            patch = self.parameters(config, 2 * settings.original_context)
        except (UnsupportedContextError, ConfigError) as error:
            return Support(False, str(error))
        return Support(True, warnings=stretch_warnings(settings, patch))

    def parameters(self, config: Any, target: int, **opts: Any) -> dict[str, Any]:
        """The keys to write into config.json so that the model reads `target` tokens. Always composed from the original
        context.

        Raises UnsupportedContextError when the architecture cannot take them, ConfigError for a bad target or option.
        """
        stretch = self.stretch(config, target, **opts)
        settings = stretch.settings
        rope = {**self.realise(stretch), **settings.extra}
        record = {
            "method": self.id,
            "original_context": settings.original_context,
            "original_rope_theta": settings.theta,
            "target_context": target,
            "factor": stretch.factor,
            "options": {**asdict(stretch.options), **stretch.given},
            "rope_type": rope["rope_type"],
            "rope_theta": rope["rope_theta"],
        }
        length = settings.original_context if self.keeps_length else target
        patch = {"rope_parameters": rope, "max_position_embeddings": length, RECORD: record}
        check_patch_loads(config, patch, self.id)
        return patch

    def inv_freq(self, config: Any, target: int, seq_len: int | None = None, **opts: Any) -> tuple[Tensor, float]:
        """Reference frequencies [d/2] (float32, from double precision) and attention factor. `seq_len` matters to
        dynamic methods.
        """
        import torch

        values, attention_factor = self.reference(self.stretch(config, target, **opts), seq_len)
        return torch.tensor(values, dtype=torch.float64).to(torch.float32), attention_factor

    def apply(self, model: Any, params: Mapping[str, Any]) -> AppliedContext:
        """Switch a live model to `params` in place; see `apply.apply_context`."""
        from scaler_wizard.context_methods.apply import apply_context

        return apply_context(model, self, params)

    def revert(self, model: Any, applied: AppliedContext) -> None:
        """Undo `apply` exactly; see `apply.revert_context`."""
        from scaler_wizard.context_methods.apply import revert_context

        revert_context(model, applied)

    def stretch(self, config: Any, target: int, **opts: Any) -> Stretch:
        """Check the target and the options and compose the extension from the ORIGINAL context."""
        original = opts.pop("original_context", None)
        options = self._options(opts)
        settings = read_settings(config, original)
        if not is_whole(target) or target < settings.original_context:
            allowed = f"a whole number of tokens, at least the original context {settings.original_context}"
            raise ConfigError([Fault("target_context", repr(target), allowed, "choose a longer target")])
        if settings.dimensions < 4:
            raise UnsupportedContextError(
                f"The model type {settings.model_type!r} rotates only {settings.dimensions} dimensions per head: "
                "context methods need at least 4."
            )
        given = {} if original is None else {"original_context": original}
        return Stretch(settings, target, target / settings.original_context, options, given)

    def _options(self, opts: Mapping[str, Any]) -> Any:
        known = [item.name for item in fields(self.options_type)]
        faults = []
        for name in opts:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                allowed = "one of " + ", ".join(known) if known else "no options"
                faults.append(
                    Fault(
                        f"method_params.{name}",
                        "an unknown option",
                        allowed,
                        f"did you mean {near[0]}?" if near else "",
                    )
                )
        if not faults:
            options = self.options_type(**opts)
            faults = options.faults()
        if faults:
            raise ConfigError(faults)
        return options
