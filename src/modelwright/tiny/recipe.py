"""What is trained and how: the sizes of the family and the schedule, counted in steps so that a seed determines the
result.
"""

from __future__ import annotations

from dataclasses import dataclass

Mixture = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Stage:
    """A stretch of training at one length: `steps` steps of `rows` rows of `length` tokens, kinds of rows drawn with
    these weights.

    A `rate` makes the stage a cycle of its own: it starts at that share of the peak learning rate and falls linearly to 0.
    """

    steps: int
    rows: int
    length: int
    mixture: Mixture
    rate: float | None = None


@dataclass(frozen=True)
class Recipe:
    """One member of the family: its shape (a Llama's), its stages and the optimizers' settings.

    `matrix_rate` is Muon's learning rate for the hidden matrices, `vector_rate` AdamW's for embeddings and norms. Both
    warm up over `warmup_steps`, stay, and fall linearly to `final_share` of the peak over the last `decay_share` of
    the steps of all stages without a rate of their own; stages with one come last.

    `grown_from` names the smaller member whose trained weights this one starts with (see `growth`).
    """

    name: str
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    ffn_size: int
    stages: tuple[Stage, ...]
    matrix_rate: float = 0.02
    vector_rate: float = 6e-3
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    warmup_steps: int = 50
    decay_share: float = 0.4
    final_share: float = 0.02
    context: int = 512
    vocabulary_size: int = 1024
    rope_theta: float = 10_000.0
    grown_from: str | None = None

    @property
    def steps(self) -> int:
        """All steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def tokens(self) -> int:
        """All tokens read in training."""
        return sum(stage.steps * stage.rows * stage.length for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """The stage that step number `step` (from 0) belongs to; the last one for steps beyond the end."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    def rate_factor(self, step: int) -> float:
        """The share of the peak learning rate at step `step` (from 0)."""
        start = 0
        for stage in self.stages:
            if stage.rate is not None and start <= step < start + stage.steps:
                return stage.rate * (1 - (step - start) / stage.steps)
            start += stage.steps
        main_steps = sum(stage.steps for stage in self.stages if stage.rate is None)
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        decay_steps = max(1, round(main_steps * self.decay_share))
        left = min(1.0, (main_steps - step) / decay_steps)
        return warm * (self.final_share + (1 - self.final_share) * left)


FOUNDATION: Mixture = (("repeat", 0.25), ("lookup", 0.30), ("text", 0.30), ("recall", 0.15))
BUILDING: Mixture = (
    ("repeat", 0.08),
    ("lookup", 0.17),
    ("text", 0.35),
    ("recall", 0.30),
    ("instruction", 0.05),
    ("sentiment", 0.05),
)
FINISHING: Mixture = (
    ("repeat", 0.03),
    ("lookup", 0.07),
    ("text", 0.45),
    ("recall", 0.35),
    ("instruction", 0.06),
    ("sentiment", 0.04),
)
LABELLING: Mixture = (("text", 0.25), ("recall", 0.15), ("instruction", 0.05), ("sentiment", 0.55))
SETTLING: Mixture = (("lookup", 0.03), ("text", 0.42), ("recall", 0.35), ("instruction", 0.07), ("sentiment", 0.13))


FROM_RANDOM_WEIGHTS = (
    Stage(steps=1200, rows=32, length=64, mixture=FOUNDATION),
    Stage(steps=800, rows=24, length=128, mixture=BUILDING),
    Stage(steps=600, rows=12, length=256, mixture=BUILDING),
    Stage(steps=900, rows=8, length=512, mixture=FINISHING),
    Stage(steps=200, rows=32, length=64, mixture=LABELLING, rate=0.8),
    Stage(steps=200, rows=8, length=512, mixture=SETTLING, rate=0.5),
)
"""The length curriculum: recall forms within about a million tokens on short rows and is then stretched to the whole window.
The labels of reviews come last, on short rows again: in a long row of many reviews the word that decides a label drowns among
the others."""


def _grown(name: str, grown_from: str, steps: int, labelling: int, settling: int, **shape: int) -> Recipe:
    """A recipe that starts as a smaller model, which reads the whole window already: lower rates, no curriculum. Counts in steps."""
    stages = (
        Stage(steps=steps, rows=8, length=512, mixture=FINISHING),
        Stage(steps=labelling, rows=32, length=64, mixture=LABELLING, rate=0.5),
        Stage(steps=settling, rows=8, length=512, mixture=SETTLING, rate=0.4),
    )
    return Recipe(name, **shape, stages=stages, matrix_rate=0.01, vector_rate=3e-3, decay_share=0.7, grown_from=grown_from)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "tiny-0.4m",
            hidden_size=96,
            layers=3,
            heads=3,
            kv_heads=1,
            ffn_size=256,
            stages=FROM_RANDOM_WEIGHTS,
        ),
        _grown("tiny-1.5m", "tiny-0.4m", 600, 80, 120, hidden_size=192, layers=4, heads=6, kv_heads=3, ffn_size=416),
        _grown("tiny-5m", "tiny-1.5m", 450, 60, 100, hidden_size=288, layers=5, heads=9, kv_heads=3, ffn_size=768),
    )
}
MINIATURE = Recipe(
    "miniature", hidden_size=32, layers=2, heads=2, kv_heads=1, ffn_size=64, warmup_steps=4,
    stages=(Stage(10, 4, 32, FOUNDATION), Stage(10, 2, 64, FINISHING)),
)  # fmt: skip
"""Twenty steps in a second or two: for tests of the machinery, not of the model."""
