"""The repair operator over all protected layers: families A, B, C and D as modules. (specs/medic.md, 3 and 12)

Letters: B batch, Hq query heads, Hkv KV heads, G = Hq/Hkv, Tq query rows, T cached tokens, d head dimension, r rank. Query
head h reads KV head h // G. What an operator does to attention is written down in `forms`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cachemedicpp.repair.parts import Side
from cachemedicpp.repair.row_plan import RowPlan, row_plan
from cachemedicpp.repair.spec import HeadLayout, OperatorSpec
from cachemedicpp.repair.token_gate import TokenPlan, token_plan
from modelwright.errors import ConfigError, Fault, LoadError


class Coefficients(NamedTuple):
    """The repair of one layer for one block of queries: `K_hat = K + ((K W) * a) U^T`, values alike with b, Wv, Uv.

    a, b: `[B, Hq, Tq, r]` (`[B, Hq, 1, r]` when one row gates all). uq: `U^T q` where it came for free. A side that is not
    repaired is None throughout. W, U: `[d, r]`, or `[Hkv, d, r]`. token_gated: `phi(K)` stands in place of `K W`.
    """

    a: Tensor | None
    b: Tensor | None
    w: Tensor | None
    u: Tensor | None
    wv: Tensor | None
    uv: Tensor | None
    uq: Tensor | None = None
    token_gated: bool = False
    renormalise: bool = False


class _Folded(NamedTuple):
    """Everything that depends on parameters only, with the small products of both sides merged."""

    entry: Tensor  # [*, m (+ r), d]: W1 of every side, then U^T of the keys
    entry_bias: Tensor  # [m (+ r)] or [Hq, 1, m (+ r)]
    mix: Tensor  # [*, m, m]: W2 of every side on the diagonal
    mix_bias: Tensor
    gain: Tensor
    offset: float
    key: tuple[Tensor, Tensor] | None
    value: tuple[Tensor, Tensor] | None


class LayerRepair(nn.Module):
    """The operator of one layer. `key`, `value`: its sides, None for a side that `apply_to` leaves out."""

    def __init__(
        self, spec: OperatorSpec, layout: HeadLayout, sides: Mapping[str, Side], layer_embedding: bool, heads: nn.Parameter | None
    ) -> None:
        super().__init__()
        self.spec, self.layout = spec, layout
        self.key, self.value = sides.get("key"), sides.get("value")
        self.layer_embedding = nn.Parameter(torch.zeros(layout.head_dim)) if layer_embedding else None
        self.head_embedding = heads
        self._watched = tuple(self.parameters())
        self._stamp: tuple[int, ...] = ()
        self._folded: _Folded | None = None
        self._plan: tuple[_Folded, RowPlan] | None = None
        self._token_plan: tuple[_Folded, TokenPlan] | None = None

    def coefficients(self, query: Tensor, detach: bool = False) -> Coefficients:
        """The coefficients for queries `[B, Hq, Tq, d]` as attention uses them (rotated, normalised).

        Computed in the dtype of the parameters, whatever the dtype of the query. detach: no gradient flows into the
        query through the gates (4.1, step 4).
        """
        folded = self._fold()
        last = self.spec.gate_rows == "last" and query.shape[2] > 1
        row = query[:, :, -1:] if last else query
        x = row.detach() if detach else row
        hidden = _affine(x.to(folded.entry.dtype), folded.entry, folded.entry_bias)
        uq, width = None, folded.mix.shape[-1]
        if folded.key is not None:
            hidden, uq = hidden.split((width, self.spec.rank), dim=-1)
        gates = torch.sigmoid(_affine(F.silu(hidden), folded.mix, folded.mix_bias)) * folded.gain
        if folded.offset:
            gates = gates + folded.offset
        a, b = self._sides_of(gates)
        w, u = folded.key or (None, None)
        wv, uv = folded.value or (None, None)
        return Coefficients(a, b, w, u, wv, uv, None if last or detach else uq, self.spec.family == "D", self.spec.renormalise)

    def row_plan(self, form: str = "collapsed") -> RowPlan | None:
        """The merged matrices for inference in a folded form; None with gradients, and where heads or rows need more."""
        spec = self.spec
        if torch.is_grad_enabled() or not spec.share_across_heads or spec.renormalise or (spec.token_gate and form == "collapsed"):
            return None
        folded = self._fold()
        if folded.offset:
            return None
        if self._plan is None or self._plan[0] is not folded:
            parts = (folded.entry, folded.entry_bias, folded.mix, folded.mix_bias, folded.gain, folded.key, folded.value)
            self._plan = (folded, row_plan(spec.rank, *parts))
        return self._plan[1]

    def token_plan(self) -> TokenPlan | None:
        """The merged token gates for inference; None with gradients, without such gates, and where heads or neighbours differ."""
        gate = self.spec.token_gate
        if gate is None or gate.neighbour or not self.spec.share_across_heads or torch.is_grad_enabled():
            return None
        folded = self._fold()
        if self._token_plan is None or self._token_plan[0] is not folded:
            sides = [(side.token, side.W) for side in (self.key, self.value) if side is not None and side.token is not None]
            self._token_plan = (folded, token_plan([gate for gate, _ in sides], [weight for _, weight in sides]))
        return self._token_plan[1]

    def key_projection(self) -> Tensor | None:
        """W of the keys `[d, r]` or `[Hkv, d, r]`, without another QR factorisation; None when keys are not repaired."""
        pair = self._fold().key
        return None if pair is None else pair[0]

    def _sides_of(self, gates: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.key is None:
            return None, gates
        if self.value is None:
            return gates, None
        a, b = gates.split(self.spec.rank, dim=-1)
        return a, b

    def _fold(self) -> _Folded:
        """The folded parameters; kept between calls without gradient until a parameter changes."""
        if torch.is_grad_enabled():
            return self._build()
        stamp = (self._watched[0].data_ptr(), *map(_version_of, self._watched)) if not self._watched[0].is_inference() else ()
        if self._folded is None or not stamp or stamp != self._stamp:
            self._folded, self._stamp = self._build(), stamp
        return self._folded

    def _build(self) -> _Folded:
        sides = [side for side in (self.key, self.value) if side is not None]
        pairs = {name: side.matrices() for name, side in (("key", self.key), ("value", self.value)) if side is not None}
        entry = torch.cat([side.W1 for side in sides] + ([pairs["key"][1].mT] if "key" in pairs else []), dim=-2)
        bias = torch.cat([side.b1 for side in sides], dim=-1)
        embedded = self._embedding_bias(torch.cat([side.W1 for side in sides], dim=-2))
        bias = self._per_query_head(bias) if embedded is None else self._per_query_head(bias) + embedded
        if "key" in pairs:
            bias = F.pad(bias, (0, self.spec.rank))
        mix = sides[0].W2 if len(sides) == 1 else _block_diagonal(sides[0].W2, sides[1].W2)
        return _Folded(
            entry.contiguous(),
            bias,
            mix,
            self._per_query_head(torch.cat([side.b2 for side in sides], dim=-1)),
            self._per_query_head(torch.cat([side.gain() for side in sides], dim=-1)),
            sides[0].offset,
            pairs.get("key"),
            pairs.get("value"),
        )

    def _embedding_bias(self, first: Tensor) -> Tensor | None:
        """`W1 (e_layer + e_head)` `[Hq, 1, m]`: an embedding added to the query is a bias of each head."""
        if self.layer_embedding is None and self.head_embedding is None:
            return None
        e = torch.zeros(self.layout.query_heads, self.layout.head_dim, dtype=first.dtype, device=first.device)
        e = e if self.layer_embedding is None else e + self.layer_embedding
        e = e if self.head_embedding is None else e + self.head_embedding
        return rows_times(e[None, :, None], first)[0]

    def _per_query_head(self, x: Tensor) -> Tensor:
        """`[n]` stays; `[Hkv, n]` becomes `[Hq, 1, n]`."""
        return x if x.ndim == 1 else x.repeat_interleave(self.layout.group, dim=0)[:, None]


class RepairOperator(nn.Module):
    """A repair operator for the protected layers of one model: the exact identity when new (3.2, C7 and C8).

    Parameters are named `layer_<l>.<parameter>` and stay float32, whatever dtype is asked for (C14); float64 serves
    numerical checks. Family C has one set of matrices: every layer names the same tensors. seed: of the start values.
    Raises ConfigError when rank or heads do not fit the model.
    """

    def __init__(self, spec: OperatorSpec, layout: HeadLayout, seed: int = 0) -> None:
        super().__init__()
        if faults := _misfits(spec, layout):
            raise ConfigError(faults)
        self.spec, self.layout = spec, layout
        generator = torch.Generator().manual_seed(seed)
        shared, heads = None, None
        if spec.family == "C":
            shared = _new_sides(spec, layout, generator)
        if spec.conditioning and spec.conditioning.use_head_embedding:
            heads = nn.Parameter(torch.zeros(layout.query_heads, layout.head_dim))
        for layer in spec.protect_layers:
            sides = shared or _new_sides(spec, layout, generator)
            conditioned = bool(spec.conditioning and spec.conditioning.use_layer_embedding)
            self.add_module(f"layer_{layer}", LayerRepair(spec, layout, sides, conditioned, heads))

    def layer(self, index: int) -> LayerRepair:
        """The operator of layer `index`; KeyError when it is not protected."""
        module = self._modules[f"layer_{index}"]
        assert isinstance(module, LayerRepair)
        return module

    def coefficients(self, layer: int, query: Tensor, detach: bool = False) -> Coefficients:
        """See `LayerRepair.coefficients`."""
        return self.layer(layer).coefficients(query, detach)

    def checks(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The projections `K W`, `V W'` `[B, Hkv, T, r]` of tokens as they are now; None for a side left out.

        Taken from the clean cache and handed to attention later, they are the checksums of family D.
        """
        repair = self.layer(layer)
        return (repair.key.check(key) if repair.key else None, repair.value.check(value) if repair.value else None)

    def parameter_count(self) -> int:
        """Trained numbers; what layers share counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `nn.Module.load_state_dict`; LoadError when the layers of a family C file disagree about what they share."""
        seen: dict[int, str] = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            first = seen.setdefault(id(parameter), name)
            if first != name and name in state_dict and first in state_dict and not torch.equal(state_dict[first], state_dict[name]):
                raise LoadError(
                    f"{name} differs from {first}, but family C has one of them for all layers; the file was not written by it."
                )
        return super().load_state_dict(state_dict, strict=strict, assign=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RepairOperator:
        """Moves between devices apply; half precision does not."""

        def exact(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype in (torch.float32, torch.float64) else tensor.to(moved.device)

        super()._apply(exact, recurse)
        for layer in self.spec.protect_layers:
            self.layer(layer)._folded = None
        return self


def layout_of(model: Any) -> HeadLayout:
    """The heads of a model of transformers, read from its configuration. Raises LoadError when a size is missing."""
    from modelwright.model_shape import ModelShape

    shape = ModelShape.from_config(model.config.to_dict())
    return HeadLayout(shape.head_dim, shape.kv_heads, shape.heads)


_version_of = attrgetter("_version")


def rows_times(x: Tensor, weight: Tensor) -> Tensor:
    """`x weight^T` for rows of query heads x `[B, Hq, Tq, in]`; weight `[out, in]`, or `[Hkv, out, in]` for their KV heads."""
    if weight.ndim == 2:
        return F.linear(x, weight)
    grouped = x.reshape(x.shape[0], weight.shape[0], -1, x.shape[-1]) @ weight.mT
    return grouped.reshape(*x.shape[:-1], weight.shape[-2])


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight, bias) if weight.ndim == 2 and bias.ndim == 1 else rows_times(x, weight) + bias


def _block_diagonal(first: Tensor, second: Tensor) -> Tensor:
    """`[*, r, r]` twice to `[*, 2r, 2r]`."""
    r = first.shape[-1]
    return torch.cat([F.pad(first, (0, r)), F.pad(second, (r, 0))], dim=-2)


def _new_sides(spec: OperatorSpec, layout: HeadLayout, generator: torch.Generator) -> dict[str, Side]:
    names = {"K": ("key",), "V": ("value",), "KV": ("key", "value")}[spec.apply_to]
    return {name: Side(spec, layout.head_dim, layout.kv_heads, generator) for name in names}


def _misfits(spec: OperatorSpec, layout: HeadLayout) -> list[Fault]:
    faults = []
    if spec.rank > layout.head_dim:
        faults.append(Fault("repair.rank", str(spec.rank), f"at most the head dimension, {layout.head_dim}", "lower it"))
    if layout.query_heads % layout.kv_heads:
        faults.append(Fault("query heads", str(layout.query_heads), f"a multiple of the {layout.kv_heads} KV heads"))
    return faults
