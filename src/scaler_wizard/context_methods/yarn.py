"""YaRN (`yarn`): NTK-by-parts and a softmax temperature (Peng et al. 2024, arXiv 2309.00071).

Fast frequencies stay, slow ones are divided by s, those between are blended; cos and sin are multiplied by `sqrt(1/t)`.

Two ramps exist. `index` is that of the reference code and of transformers: linear in the index of the frequency.
`paper` is that of the paper: linear in the number of turns inside the original context. transformers cannot express the
second as `yarn`, but any fixed rescaling of frequencies is a `longrope` with equal short and long factors `theta_i /
theta'_i` and a stated attention factor, so that is what `paper` writes: the exported model loads in plain transformers.
The same form serves architectures whose configuration knows only `longrope` (Phi-3), with either ramp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modelwright.errors import Fault
from scaler_wizard.context_methods.base import RopeMethod, Stretch
from scaler_wizard.context_methods.rope import (
    BETA_FAST,
    BETA_SLOW,
    frequencies,
    index_yarn_frequencies,
    longrope_factors,
    paper_yarn_frequencies,
    yarn_attention_factor,
)
from scaler_wizard.context_methods.validation import is_number

RAMPS = ("index", "paper")
LONGROPE_ONLY_MODELS = frozenset({"phi3", "phi4_multimodal", "phimoe"})


@dataclass(frozen=True)
class YarnOptions:
    """Options of YaRN.

    `beta_fast` and `beta_slow`: turns inside the original context above which a frequency stays and below which it is
    divided by s. `truncate`: round the ends of the index ramp outwards. `attention_factor`: instead of `0.1 ln s + 1`;
    `mscale` and `mscale_all_dim`: DeepSeek's numerator and denominator for it, given together.
    """

    ramp: str = "index"
    beta_fast: float = BETA_FAST
    beta_slow: float = BETA_SLOW
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    def faults(self) -> list[Fault]:
        faults = []
        if self.ramp not in RAMPS:
            faults.append(
                Fault(
                    "method_params.ramp",
                    repr(self.ramp),
                    "one of " + ", ".join(RAMPS),
                    "use index unless you compare ramps",
                )
            )
        if not isinstance(self.truncate, bool):
            faults.append(Fault("method_params.truncate", repr(self.truncate), "true or false"))
        numbers = {name: getattr(self, name) for name in ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim")}
        for name, value in numbers.items():
            if value is not None and not (is_number(value) and value > 0):
                faults.append(Fault(f"method_params.{name}", repr(value), "a positive number"))
        if not faults and self.beta_fast <= self.beta_slow:
            faults.append(Fault("method_params.beta_fast", repr(self.beta_fast), f"a number above beta_slow = {self.beta_slow}"))
        if (self.mscale is None) != (self.mscale_all_dim is None):
            faults.append(Fault("method_params.mscale", "only one of mscale and mscale_all_dim", "both or neither"))
        return faults


def attention_factor(stretch: Stretch) -> float:
    """What cos and sin are multiplied with."""
    options = stretch.options
    if options.attention_factor is not None:
        return float(options.attention_factor)
    return yarn_attention_factor(stretch.factor, options.mscale, options.mscale_all_dim)


def scaled_frequencies(stretch: Stretch) -> list[float]:
    """`theta'_i` by the chosen ramp, [d/2]."""
    settings, options = stretch.settings, stretch.options
    thetas = frequencies(settings.dimensions, settings.theta)
    betas = {"beta_fast": options.beta_fast, "beta_slow": options.beta_slow}
    if options.ramp == "paper":
        return paper_yarn_frequencies(thetas, stretch.factor, settings.original_context, **betas)
    return index_yarn_frequencies(
        thetas,
        stretch.factor,
        settings.dimensions,
        settings.theta,
        settings.original_context,
        truncate=options.truncate,
        **betas,
    )


def realise(stretch: Stretch) -> dict[str, Any]:
    settings = stretch.settings
    common = {
        "rope_theta": settings.theta,
        "factor": stretch.factor,
        "original_max_position_embeddings": settings.original_context,
    }
    if stretch.options.ramp == "paper" or settings.model_type in LONGROPE_ONLY_MODELS:
        factors = longrope_factors(frequencies(settings.dimensions, settings.theta), scaled_frequencies(stretch))
        return {
            "rope_type": "longrope",
            **common,
            "short_factor": factors,
            "long_factor": list(factors),
            "attention_factor": attention_factor(stretch),
        }
    return {"rope_type": "yarn", **common, **_stated_options(stretch.options)}


def reference(stretch: Stretch, seq_len: int | None) -> tuple[list[float], float]:
    return scaled_frequencies(stretch), attention_factor(stretch)


def _stated_options(options: YarnOptions) -> dict[str, Any]:
    """The options that differ from the library's defaults; the record beside them always states all."""
    plain = YarnOptions()
    names = ("beta_fast", "beta_slow", "truncate", "attention_factor", "mscale", "mscale_all_dim")
    stated = {name: getattr(options, name) for name in names if getattr(options, name) != getattr(plain, name)}
    return {name: value if isinstance(value, bool) else float(value) for name, value in stated.items()}


METHOD = RopeMethod("yarn", YarnOptions, realise, reference)
