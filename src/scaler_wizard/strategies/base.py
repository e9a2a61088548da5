"""The interface of an adapter strategy, and the plain data that passes through it.

A strategy decides which parameters of a loaded model train, and knows how to write them and read them back. Nothing
here imports torch, so that the dry run can ask a strategy for its plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch.nn import Parameter
    from transformers import PreTrainedModel

    from scaler_wizard.adaptive_scaling import HardwareProfile, ScalingTargets


@dataclass(frozen=True)
class Support:
    """Whether a strategy can be used here; `reason` is one clear sentence when it can not."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True)
class StrategyPlan:
    """What `prepare` will do.

    `rank`, `alpha` and `dropout` are LoRA's; `train_embeddings` adds the input embedding and every norm to the trained
    parameters (Chen et al. 2023, LongLoRA, section 3.3); `train_head` adds an output head that is not tied to it, because
    new rows of a vocabulary exist nowhere but in what is trained and saved; `adapter_parameters` is an estimate made before the model is
    loaded (0 = not estimated).
    """

    strategy: str
    rank: int
    alpha: int
    dropout: float
    train_embeddings: bool = False
    train_head: bool = False
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    quantised: bool = False
    adapter_parameters: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class TrainableShare:
    """How much of a model trains: parameter counts, each tied tensor counted once."""

    trainable: int
    total: int

    @property
    def share(self) -> float:
        return self.trainable / self.total if self.total else 0.0

    def sentence(self) -> str:
        return f"{self.trainable:,} of {self.total:,} parameters train ({100 * self.share:.2f} %)"


@runtime_checkable
class ScalerStrategy(Protocol):
    """One way to adapt a model. Registered by name, or through the entry-point group `scaler_wizard.strategies`."""

    name: str

    def supports(self, config: Mapping[str, Any], hardware: HardwareProfile) -> Support:
        """Judge a model's config.json and the hardware before any weights are read."""
        ...

    def plan(self, targets: ScalingTargets, hardware: HardwareProfile, template: Mapping[str, Any]) -> StrategyPlan:
        """Choose rank, alpha and dropout from the adaptive rule."""
        ...

    def prepare(self, model: PreTrainedModel, plan: StrategyPlan) -> PreTrainedModel:
        """Put the adapter into `model` (changed in place) and return the model to train."""
        ...

    def trainable_parameters(self, model: PreTrainedModel) -> Iterable[Parameter]:
        """The parameters an optimizer must see, each tensor once."""
        ...

    def save(self, model: PreTrainedModel, path: Path) -> None:
        """Write the adapter into the directory `path`: safetensors and JSON only."""
        ...

    def load(self, model: PreTrainedModel, path: Path) -> PreTrainedModel:
        """Read an adapter: into the adapter `model` already carries, or around a plain base model."""
        ...

    def unload(self, model: PreTrainedModel) -> PreTrainedModel:
        """Take the adapter out and give back the base model with its original weights."""
        ...
