"""The run configuration as data: every key, its type, its bounds and its default. (specs/medic.md, 7.1)

A key without a default is required. Rules between keys stand in `rules`, reading and hashing in `settings`. Needs no torch.
Lengths and positions are in tokens, `eps` and `delta` are relative to the RMS of the tensor they disturb.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Family = Literal["A", "B", "C", "D"]
Base = Literal["A", "B"]
Form = Literal["collapsed", "extended", "materialised"]
Side = Literal["K", "V", "KV"]
ChannelMode = Literal["all", "bernoulli", "targeted"]
TimeMode = Literal["all_past", "old_only", "window"]
TaskName = Literal["wikitext2_ppl", "sst2_prompted", "needle_long_context", "passkey"]
BaseType = Literal["gaussian", "dropout_zero", "orthogonal_rotation", "bitflipish_sparse", "quant_noise", "contiguous_overwrite"]
CorruptionType = Literal[
    "gaussian", "dropout_zero", "orthogonal_rotation", "bitflipish_sparse", "quant_noise", "contiguous_overwrite", "targeted"
]
WORDING_NAMES = ("auto", "plain", "tiny_line", "tiny_chat")
"""The wordings of the sentiment task that have a name; any other wording is a template with `{text}`."""
DEVICE_PATTERN = r"^(cpu|cuda|cuda:[0-9]+)$"


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")
    return value


def _device_name(value: str) -> str:
    if not re.fullmatch(DEVICE_PATTERN, value):
        raise ValueError("cpu, cuda or cuda:<i>")
    return value


Whole = Annotated[int, BeforeValidator(_no_truth_value)]
Count = Annotated[Whole, Field(ge=0)]
Number = Annotated[float, BeforeValidator(_no_truth_value)]
NonNegative = Annotated[Number, Field(ge=0)]
Window = tuple[Whole, Whole]


class Section(BaseModel):
    """A part of a configuration: unknown keys are faults, values never change after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class ModelSettings(Section):
    """The frozen base model."""

    name: str = Field(min_length=1, description="hub id, local folder or modelwright/tiny-*")
    revision: str | None = None
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "medic"]
    use_cache: bool


class ConditioningSettings(Section):
    """What is added to the query before the gates of family C."""

    use_layer_embedding: bool = True
    use_head_embedding: bool = True


class TokenGateSettings(Section):
    """The token-dependent gate of family D: `sigma(w2 . silu(W3 f(K)) + b2)`. (12.5)

    hidden: rows of W3. basis: learned directions whose projections join the features. neighbour: the difference from the
    token before joins too. checksum: so does the residual against the projection kept when the token was cached.
    """

    hidden: int = Field(8, ge=1)
    basis: int = Field(4, ge=0)
    neighbour: bool = False
    checksum: bool = False


class RepairSettings(Section):
    """The repair operator and the layers that carry it. (3.2, 12.3)"""

    family: Family
    base: Base | None = Field(None, description="family C only: the family it is built on, A unless set")
    rank: int = Field(ge=1, description="r; at most the head dimension of the model")
    protect_layers: tuple[Count, ...] = Field(min_length=1)
    share_across_heads: bool
    apply_to: Side
    alpha_max: float = Field(0.999, ge=0, le=0.999)
    conditioning: ConditioningSettings | None = Field(None, description="family C only, which needs it")
    gate_rows: Literal["per_query", "last"] = "per_query"
    form: Form = Field("collapsed", description="family D: extended")
    orthonormal: bool = Field(False, description="family B, and C built on B: true unless set")
    token_gate: TokenGateSettings | None = Field(None, description="family D only")

    @model_validator(mode="before")
    @classmethod
    def _fill_what_family_c_implies(cls, values: Any) -> Any:
        """C is built on A unless `base` says B; built on B its basis is orthonormal unless said otherwise."""
        if not isinstance(values, Mapping) or values.get("family") != "C":
            return values
        base = values.get("base", "A")
        return {"base": base, "orthonormal": base == "B", **values}


class AxesSettings(Section):
    """Where a corruption may strike; heads are KV heads. (2.2)"""

    layer_mode: ChannelMode
    p_layer: float = Field(1.0, ge=0, le=1)
    layers: tuple[Count, ...] | None = None
    head_mode: ChannelMode
    p_head: float = Field(1.0, ge=0, le=1)
    heads: tuple[Count, ...] | None = None
    time_mode: TimeMode
    N_recent: int = Field(0, ge=0)
    window: Window | None = None


class ParamsSettings(Section):
    """The numbers of the corruption operators. (2.3)"""

    dropout_p: float = Field(ge=0, le=1)
    bitflip_p: float = Field(ge=0, le=1)
    bitflip_eps_jump: float = Field(ge=0)
    quant_bits: int = Field(ge=2, le=16)
    rotation_seed: int = Field(ge=0)
    overwrite_window: tuple[Count, Count]
    donor_prompt: str
    targeted_base_type: BaseType = "gaussian"


class CorruptionSettings(Section):
    """What damages the cache in training, and how. (2)"""

    mixture: str = Field(min_length=1, description="a mixture file, or the name of a packaged one")
    eps_grid: tuple[NonNegative, ...] = Field(min_length=1)
    axes: AxesSettings
    params: ParamsSettings
    severity: Literal["scaled", "fixed"] = "scaled"
    inject: Literal["stored", "inline"] = "stored"


class TrainSettings(Section):
    """Training of the repair operator. (4)"""

    steps: int = Field(ge=1)
    lr: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    prefix_len: int = Field(ge=1)
    temperature: float = Field(ge=0.5)
    lambda_id: float = Field(ge=0)
    lambda_contr: float = Field(ge=0)
    alpha_contr: float = Field(ge=0, le=1)
    clean_batch_prob: float = Field(ge=0, le=1)
    grad_clip: float = Field(ge=0, description="0 = off")
    log_every: int = Field(ge=1)
    save_every: int = Field(ge=1)
    lambda_w: float = Field(0.0, ge=0)
    tail_len: int = Field(1, ge=1)


class BaselineSettings(Section):
    """The heuristic defences. (6.3)"""

    smoothing_beta: float = Field(ge=0, le=1)
    dropout_p: float = Field(ge=0, le=1)
    clip_val: float = Field(ge=0)
    target_rms: float = Field(ge=0)


class TaskSettings(Section):
    """One task of the evaluation (6.1); `passkey` is the probe of the kernel, which the tiny models solve."""

    name: TaskName
    num_examples: int = Field(ge=1)


class GridSettings(Section):
    """The corruption grid of the evaluation. (6.2)"""

    eps: tuple[NonNegative, ...] = Field(min_length=1)
    types: tuple[CorruptionType, ...] = Field(min_length=1)


class EvalSettings(Section):
    """Tasks, grid and held-out type. (6)"""

    tasks: tuple[TaskSettings, ...] = Field(min_length=1)
    corruption_eval: GridSettings
    max_seq_len: int = Field(ge=8)
    measure_overhead: bool
    ood_protocol: str | None = Field(description="name of a leave-one-type-out split, or null")
    ood_splits_path: str | None = None
    heuristic_mask: Literal["region", "oracle"] = "region"
    batch_size: int = Field(16, ge=1, description="examples scored together; reproduction (inject inline, gate_rows last) scores one")
    sst2_wording: str = Field(
        "auto",
        min_length=1,
        description="how a review is asked about: auto (the tiny models' own wording for them, else plain), plain, tiny_line, tiny_chat, "
        "or a template with {text}, whose answers are negative and positive",
    )
    needle_values: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None,
        min_length=4,
        description="values that needles state, one drawn per example, beside three others of the list of as many tokens; null: "
        "data.long_context.needle_value and three made to look like it",
    )


class StabilitySettings(Section):
    """Logit sensitivity and amplification maps. (5)"""

    num_prompts: int = Field(ge=1)
    delta_norms: tuple[NonNegative, ...] = Field(min_length=1)
    num_directions: int = Field(ge=1)
    topk_logits: int = Field(ge=1)
    layers: tuple[Count, ...] = Field((), min_length=1, description="a subset of repair.protect_layers; all of them when left out")
    head_subset: tuple[Count, ...] | None = None
    time_mode: TimeMode
    N_recent: int = Field(ge=0)
    window: Window | None = None


class OfflinePaths(Section):
    """Files used with `use_offline`, relative to the configuration or to this package."""

    wikitext2: str = Field(min_length=1)
    sst2: str = Field(min_length=1)


class LongContextSettings(Section):
    """The needle generator; `context_len` is in tokens and capped so that the needle fits `eval.max_seq_len`. (6.1)"""

    seed: int = Field(ge=0)
    context_len: int = Field(ge=32)
    needle_token: str = Field(min_length=1)
    needle_value: str = Field(min_length=1)
    position_frac: float = Field(ge=0, le=1)
    question_template: str = Field(min_length=1)


class DataSettings(Section):
    """Where text comes from."""

    use_offline: bool
    offline_paths: OfflinePaths
    long_context: LongContextSettings


class RunConfig(Section):
    """A complete run configuration; made by `settings.load_run_config`, which also checks the rules between keys."""

    seed: int = Field(ge=0)
    device: Annotated[str, AfterValidator(_device_name), Field(json_schema_extra={"pattern": DEVICE_PATTERN})]
    dtype: Literal["float16", "bfloat16", "float32"]
    model: ModelSettings
    repair: RepairSettings
    corruption: CorruptionSettings
    train: TrainSettings
    baseline: BaselineSettings
    eval: EvalSettings
    stability: StabilitySettings
    data: DataSettings
