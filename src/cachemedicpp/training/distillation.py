"""Training of a repair operator by distillation from the clean pass; the base model stays frozen. (specs/medic.md, 4.1, 4.2)

One step, for B prefixes of `prefix_len` tokens:

    teacher   clean cache of the prefix without its last `tail_len` tokens, then the tail on it; no gradient
    student   the same cache, corrupted in the protected layers; the tail runs on it with the repair  (`inject: stored`)
    L = L_KD + lambda_id L_id + lambda_contr L_contr + lambda_w ||phi||^2

Every draw depends on `(seed, step, row)` alone, so a step can be repeated and a training resumed anywhere. Keys and values
`[B, Hkv, T, d]`, queries `[B, Hq, Tq, d]`, logits `[B, rows, vocabulary]`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cachemedicpp import seeds
from cachemedicpp.config.mixture import Mixture, operator_params, sample_event
from cachemedicpp.config.sections import Form, RunConfig, TrainSettings
from cachemedicpp.faults.corruption import Corrupted, Corruption, DonorCache, DrawCounter, event_record
from cachemedicpp.faults.events import CLEAN, TARGETED, Axes, Event
from cachemedicpp.faults.injection import fork_cache, inject_stored, inline_hook, layer_state
from cachemedicpp.inputs.token_stream import draw_prefixes
from cachemedicpp.repair.attention import protecting
from cachemedicpp.repair.gram import contraction_ratio, identity_penalty
from cachemedicpp.repair.operator import RepairOperator
from cachemedicpp.repair.spec import OperatorSpec
from modelwright.errors import ModelwrightError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LayerPair = tuple[Tensor, Tensor]
OVERWRITE = "contiguous_overwrite"


@dataclass(frozen=True)
class Recipe:
    """What a training step needs besides model, operator and text. form: how the repair runs; inline: `inject: inline`."""

    settings: TrainSettings
    corruption: Corruption
    mixture: Mixture
    eps_grid: tuple[float, ...]
    form: Form
    inline: bool = False

    @property
    def seed(self) -> int:
        return self.corruption.seed


@dataclass(frozen=True)
class StepResult:
    """What one step did. rho: of the protected layers and rows that were harmed, may be empty. tokens: read in the step."""

    step: int
    loss_total: float
    loss_kd: float
    loss_id: float
    loss_contr: float
    rho: tuple[float, ...]
    corruption: Mapping[str, Any]
    tokens: int

    def values(self) -> dict[str, Any]:
        """The fields of a log line that do not depend on time. (4.5)"""
        rho = sorted(self.rho)
        return {
            "loss_total": self.loss_total,
            "loss_kd": self.loss_kd,
            "loss_id": self.loss_id,
            "loss_contr": self.loss_contr,
            "rho_mean": statistics.fmean(rho) if rho else None,
            "rho_p95": _quantile(rho, 0.95) if rho else None,
            "corruption": dict(self.corruption),
        }


@dataclass
class _Pass:
    """What a student pass leaves for the penalties: last query rows, damaged and clean keys and values, by layer."""

    logits: Tensor
    target: Tensor
    queries: dict[int, Tensor] = field(default_factory=dict)
    corrupted: dict[int, LayerPair] = field(default_factory=dict)
    clean: dict[int, LayerPair] = field(default_factory=dict)
    struck: dict[int, Corrupted] = field(default_factory=dict)


def recipe_of(config: RunConfig, mixture: Mixture, donor: DonorCache | None = None) -> Recipe:
    """The recipe of a run configuration. mixture: `settings.training_mixture_of(config)`; donor: where `needs_donor`."""
    params = operator_params(mixture, config.corruption.params.model_dump())
    axes = Axes(**config.corruption.axes.model_dump())
    protected = tuple(sorted(config.repair.protect_layers))
    corruption = Corruption(config.seed, protected, axes, params, config.corruption.severity, donor)
    return Recipe(config.train, corruption, mixture, config.corruption.eps_grid, config.repair.form, config.corruption.inject == "inline")


def operator_of(config: RunConfig, model: Any) -> RepairOperator:
    """A new operator, the exact identity, for `model` and on its device; start values from `seed`."""
    from cachemedicpp.repair.operator import layout_of

    spec = OperatorSpec.from_mapping(config.repair.model_dump())
    return RepairOperator(spec, layout_of(model), config.seed).to(model.device)


def needs_donor(mixture: Mixture, targeted_base_type: str) -> bool:
    """Whether the mixture can draw an event that copies the donor cache."""
    drawn = {kind for kind, weight in mixture.weights.items() if weight > 0}
    return OVERWRITE in drawn or (TARGETED in drawn and targeted_base_type == OVERWRITE)


def draw_event(recipe: Recipe, step: int) -> Event:
    """The event of a step: none with probability `clean_batch_prob`, else one of the mixture."""
    generator = seeds.generator(recipe.seed, seeds.EVENT, seeds.TRAIN, step)
    if float(torch.rand((), generator=generator, dtype=torch.float64)) < recipe.settings.clean_batch_prob:
        return CLEAN
    return sample_event(recipe.mixture, recipe.eps_grid, generator)


def fit(
    model: PreTrainedModel,
    operator: RepairOperator,
    stream: Tensor,
    recipe: Recipe,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    first: int = 1,
    on_step: Callable[[StepResult], None] | None = None,
) -> torch.optim.Optimizer:
    """Train `operator` from step `first` to `steps` and return the optimiser. on_step: hears every step when it is done."""
    optimizer = optimizer or optimizer_of(operator, recipe.settings)
    for step in range(first, recipe.settings.steps + 1):
        result = training_step(model, operator, optimizer, stream, recipe, step)
        if on_step is not None:
            on_step(result)
    return optimizer


def optimizer_of(operator: RepairOperator, settings: TrainSettings) -> torch.optim.Adam:
    """Adam with `lr` and the library's other values, over the operator alone."""
    return torch.optim.Adam(operator.parameters(), lr=settings.lr)


def training_step(
    model: PreTrainedModel, operator: RepairOperator, optimizer: torch.optim.Optimizer, stream: Tensor, recipe: Recipe, step: int
) -> StepResult:
    """Step number `step` (from 1). model: frozen, in eval mode. stream: token ids `[N]`.

    Raises UsageError when the text is shorter than a prefix, ModelwrightError when the loss is not finite; the parameters
    are then unchanged.
    """
    settings = recipe.settings
    event = draw_event(recipe, step)
    tokens = draw_prefixes(stream, settings.prefix_len, seed=recipe.seed, step=step, batch=settings.batch_size)
    counter = DrawCounter(seeds.TRAIN, step, tuple(range(settings.batch_size)))
    forward = _inline_pass if recipe.inline else _stored_pass
    done = forward(model, operator, recipe, event, counter, tokens.to(model.device))

    kd = distillation_loss(done.target, done.logits, settings.temperature)
    identity, contraction, rho = _penalties(operator, done, clean=event is CLEAN, settings=settings)
    total = kd + settings.lambda_id * identity + settings.lambda_contr * contraction
    if settings.lambda_w > 0:
        total = total + settings.lambda_w * torch.stack([p.square().sum() for p in operator.parameters()]).sum()
    if not bool(total.isfinite()):
        raise ModelwrightError(
            f"The loss of training step {step} is {float(total.detach())} (corruption {event.type}, epsilon {event.epsilon}); "
            "lower train.lr or the severity of the corruption."
        )
    optimizer.zero_grad(set_to_none=True)
    if total.requires_grad:
        total.backward()
        if settings.grad_clip > 0:
            torch.nn.utils.clip_grad_norm_(operator.parameters(), settings.grad_clip)
        optimizer.step()
    return StepResult(
        step,
        float(total.detach()),
        float(kd.detach()),
        float(identity.detach()),
        float(contraction.detach()),
        rho,
        event_record(event, done.struck.values()),
        tokens.numel(),
    )


def distillation_loss(target: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """`KL(p, q) = sum p (log p - log q)` of `p = softmax(target / Tm)` and `q = softmax(logits / Tm)`, mean over batch and
    rows, no factor Tm^2. Both `[B, rows, vocabulary]`; computed in float32."""
    log_p = (target.float() / temperature).log_softmax(-1)
    log_q = (logits.float() / temperature).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


# ---------------------------------------------------------------------- the two passes


def _stored_pass(
    model: PreTrainedModel, operator: RepairOperator, recipe: Recipe, event: Event, counter: DrawCounter, tokens: Tensor
) -> _Pass:
    """Prefill once, corrupt a fork of the cache, run the tail on both. [C6]"""
    from transformers import DynamicCache

    prefix, tail = tokens.split((tokens.shape[1] - recipe.settings.tail_len, recipe.settings.tail_len), dim=1)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=prefix, past_key_values=cache, use_cache=True, logits_to_keep=1)
        student = fork_cache(cache)
        clean = {layer: layer_state(cache, layer) for layer in recipe.corruption.protected}
        struck = inject_stored(student, recipe.corruption, event, counter)
        target = model(input_ids=tail, past_key_values=cache, use_cache=True).logits
    done = _Pass(target, target, {}, {layer: (x.key, x.value) for layer, x in struck.items()}, clean, struck)

    def keep(layer: int, query: Tensor, key: Tensor, value: Tensor) -> None:
        done.queries[layer] = query[:, :, -1:].detach()

    gated = operator.spec.token_gate
    checks = {layer: operator.checks(layer, *pair) for layer, pair in clean.items()} if gated is not None and gated.checksum else None
    with protecting(model, operator, recipe.form, observe=keep, checks=checks, detach=True):
        done.logits = model(input_ids=tail, past_key_values=student, use_cache=True).logits
    return done


def _inline_pass(
    model: PreTrainedModel, operator: RepairOperator, recipe: Recipe, event: Event, counter: DrawCounter, tokens: Tensor
) -> _Pass:
    """The original's single pass: what attention reads is corrupted in each protected layer; the last row is scored."""
    clean: dict[int, LayerPair] = {}

    def keep_clean(layer: int, query: Tensor, key: Tensor, value: Tensor) -> None:
        clean[layer] = (key.detach(), value.detach())

    protected = recipe.corruption.protected
    with torch.no_grad(), protecting(model, None, layers=protected, observe=keep_clean):
        target = model(input_ids=tokens, use_cache=False, logits_to_keep=1).logits
    done = _Pass(target, target, clean=clean)

    def keep(layer: int, query: Tensor, key: Tensor, value: Tensor) -> None:
        done.queries[layer] = query[:, :, -1:].detach()
        done.corrupted[layer] = (key.detach(), value.detach())

    def note(layer: int, result: Corrupted) -> None:
        done.struck[layer] = result

    hook = inline_hook(recipe.corruption, event, counter, note)
    with protecting(model, operator, recipe.form, corrupt=hook, observe=keep, detach=True):
        done.logits = model(input_ids=tokens, use_cache=False, logits_to_keep=1).logits
    return done


# ---------------------------------------------------------------------- penalties


def _penalties(operator: RepairOperator, done: _Pass, *, clean: bool, settings: TrainSettings) -> tuple[Tensor, Tensor, tuple[float, ...]]:
    """`L_id` (clean steps only), `L_contr` and the rho of harmed layers (corrupted steps only), summed over layers, mean over
    rows. A penalty of weight 0 is measured without gradient. Clean keys and values are the teacher's. [C12] [C13] [C14]"""
    zero = done.logits.new_zeros((), dtype=torch.float32)
    identity, contraction, rhos = zero, zero, []
    weight = settings.lambda_id if clean else settings.lambda_contr
    with torch.set_grad_enabled(weight > 0):
        for layer, query in done.queries.items():
            repair = operator.layer(layer)
            if clean:
                identity = identity + identity_penalty(repair, query, *done.clean[layer]).mean()
                continue
            found = contraction_ratio(repair, query, done.corrupted[layer], done.clean[layer])
            contraction = contraction + (found.rho - settings.alpha_contr).clamp_min(0).square().mean()
            rhos += found.rho.detach()[found.effective].tolist()
    return identity, contraction, tuple(rhos)


def _quantile(ordered: list[float], share: float) -> float:
    """Linear interpolation between the two nearest of the sorted values."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
