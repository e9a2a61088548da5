"""What a contraction target can ask of a repair, in numbers and in sentences. [C15] (specs/medic.md, 4.2) Needs no torch."""

from __future__ import annotations

import math


def attainable_rho(head_dim: int, rank: int) -> float:
    """The least expected `rho` of a correction of rank r that depends on the query only, for noise isotropic over d
    dimensions: `sqrt((d - r) / d)`. [C15]"""
    return math.sqrt(max(0, head_dim - rank) / head_dim)


def rank_for(head_dim: int, target: float) -> int:
    """The least rank whose bound is not above `target`: `d (1 - target^2)`, rounded up."""
    return math.ceil(head_dim * (1 - target * target))


def attainability_words(head_dim: int, rank: int, family: str) -> str:
    """The sentence `train` prints about the least rho."""
    subject = "a repair that depends on the query only; family D also looks at the tokens" if family == "D" else "this repair"
    bound = attainable_rho(head_dim, rank)
    return f"Attainable rho: at least {bound:.3f} for isotropic noise with rank {rank} of {head_dim} dimensions (bound for {subject})."


def attainability_warning(head_dim: int, rank: int, target: float) -> str | None:
    """What is wrong with a contraction target below the bound; None when it can be reached."""
    bound = attainable_rho(head_dim, rank)
    if target >= bound:
        return None
    return (
        f"train.alpha_contr is {target}, below the bound {bound:.3f}, so the contraction target cannot be reached; "
        f"raise it, or repair.rank to {rank_for(head_dim, target)}."
    )
