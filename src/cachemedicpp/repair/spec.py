"""What a repair operator is made of, as data: family, rank, layers, sides, options. Needs no torch. (specs/medic.md, 3.2, 12.5)

Families: A adds `U (a(q) * W^T x)` to every cached key or value x; B removes a share of `B B^T x`; C is A or B with layer and
head embeddings in the gate input and one set of matrices for all layers; D is A with a gate that also looks at each token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast, get_args

from modelwright.errors import ConfigError, Fault, UsageError

Family = Literal["A", "B", "C", "D"]
Base = Literal["A", "B"]
Sides = Literal["K", "V", "KV"]
GateRows = Literal["per_query", "last"]

HEURISTICS = ("reset_clear", "smoothing", "masking_dropout", "clipping_renorm")
"""The simple defences a repair is compared with, in the order of the grid; the first listed wins a tie. (specs/medic.md, 6.3)"""


@dataclass(frozen=True)
class Conditioning:
    """Which learned vectors `[d]` join the query in the gate input of family C."""

    use_layer_embedding: bool = True
    use_head_embedding: bool = True


@dataclass(frozen=True)
class TokenGateSpec:
    """The token-dependent gate of family D, `sigma(w2 . silu(W3 f(x)) + b2)`.

    hidden: rows of W3. basis: learned directions whose projections join the features. neighbour: the distance from the
    token before joins too. checksum: so does the residual against the projection kept when the token was cached.
    """

    hidden: int = 8
    basis: int = 4
    neighbour: bool = False
    checksum: bool = False


@dataclass(frozen=True)
class HeadLayout:
    """The heads of the model that carries the operator: d, Hkv and Hq."""

    head_dim: int
    kv_heads: int
    query_heads: int

    @property
    def group(self) -> int:
        """G, query heads to a KV head."""
        return self.query_heads // self.kv_heads


@dataclass(frozen=True)
class OperatorSpec:
    """One repair operator. Raises ConfigError with every fault at once.

    rank: r. alpha_max: upper bound of the gates, 0 to 0.999. base: what family C is built on; A or B for the families of
    that name, A for D. orthonormal: family B and C on B only; True unless set. renormalise: scale each repaired token
    back to the length it had, after the correction, which only the materialised form can do (12.4).
    """

    family: Family
    rank: int
    protect_layers: tuple[int, ...]
    apply_to: Sides = "KV"
    alpha_max: float = 0.999
    share_across_heads: bool = True
    orthonormal: bool | None = None
    gate_rows: GateRows = "per_query"
    conditioning: Conditioning | None = None
    token_gate: TokenGateSpec | None = None
    base: Base | None = None
    renormalise: bool = False

    def __post_init__(self) -> None:
        if faults := _faults(self):
            raise ConfigError(faults)
        defaults: dict[str, Any] = {
            "protect_layers": tuple(sorted(self.protect_layers)),
            "base": self.base or ("B" if self.family == "B" else "A"),
            "conditioning": self.conditioning or (Conditioning() if self.family == "C" else None),
            "token_gate": self.token_gate or (TokenGateSpec() if self.family == "D" else None),
        }
        defaults["orthonormal"] = self.orthonormal is not False if defaults["base"] == "B" else False
        for name, value in defaults.items():
            object.__setattr__(self, name, value)

    @property
    def serving_form(self) -> Literal["collapsed", "extended"]:
        """The form in which this operator is served: the cheapest that expresses it."""
        return "extended" if self.family == "D" else "collapsed"

    def as_mapping(self) -> dict[str, Any]:
        """Plain values, for a checkpoint (`repair_config`); `from_mapping` reads them back."""
        return {**asdict(self), "protect_layers": list(self.protect_layers)}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> OperatorSpec:
        """Read a `repair` section (or `as_mapping`). `form` says how an operator is run and is passed over.

        Raises ConfigError for unknown keys and for every fault of the values.
        """
        known = {item.name: item for item in fields(cls)}
        unknown = [name for name in values if name not in known and name != "form"]
        if unknown:
            raise ConfigError([Fault(f"repair.{name}", "an unknown key", ", ".join(known)) for name in unknown])
        taken = {name: value for name, value in values.items() if name in known}
        for name, kind in (("conditioning", Conditioning), ("token_gate", TokenGateSpec)):
            if isinstance(taken.get(name), Mapping):
                taken[name] = cast(Any, kind)(**taken[name])
        if "protect_layers" in taken:
            taken["protect_layers"] = tuple(taken["protect_layers"])
        return cls(**taken)


def refuse_last_row_gates(spec: OperatorSpec, purpose: str) -> None:
    """Raise UsageError when `spec` gates every row by the last one and `purpose` scores many rows at once. [C10]"""
    if spec.gate_rows == "last":
        raise UsageError(
            f"repair.gate_rows is 'last', which lets a later token change earlier logits, so {purpose} would be wrong; "
            "use repair.gate_rows per_query."
        )


def _faults(spec: OperatorSpec) -> list[Fault]:
    faults = []

    def check(name: str, good: bool, allowed: str, todo: str = "") -> None:
        if not good:
            faults.append(Fault(f"repair.{name}", repr(getattr(spec, name)), allowed, todo))

    layers = tuple(spec.protect_layers)
    on_b = spec.family == "B" or (spec.family == "C" and spec.base == "B")
    check("family", spec.family in get_args(Family), ", ".join(get_args(Family)))
    check("rank", isinstance(spec.rank, int) and spec.rank >= 1, "a whole number from 1")
    check("protect_layers", bool(layers) and min(layers) >= 0 and len(set(layers)) == len(layers), "at least one layer number, each once")
    check("apply_to", spec.apply_to in get_args(Sides), ", ".join(get_args(Sides)))
    check("alpha_max", 0 <= spec.alpha_max <= 0.999, "0 to 0.999")
    check("gate_rows", spec.gate_rows in get_args(GateRows), ", ".join(get_args(GateRows)))
    check("orthonormal", not spec.orthonormal or on_b, "false or nothing", "only family B, and C built on B, has a basis")
    bases = {"A": ("A",), "B": ("B",), "C": ("A", "B"), "D": ("A",)}.get(spec.family, ("A", "B"))
    check("base", spec.base is None or spec.base in bases, " or ".join(bases), "leave it out, or use family C")
    check("conditioning", spec.conditioning is None or spec.family == "C", "nothing", "it belongs to family C")
    check("token_gate", spec.token_gate is None or spec.family == "D", "nothing", "it belongs to family D")
    if spec.token_gate is not None:
        check("token_gate", spec.token_gate.hidden >= 1 and spec.token_gate.basis >= 0, "hidden from 1, basis from 0")
    return faults
