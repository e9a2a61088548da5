"""Parameters and coefficients of the repair families, against loops over the formulas and the counts of the specification."""

import copy
import math
from itertools import product

import pytest
import torch

from cachemedicpp.repair.cache import layer_term
from cachemedicpp.repair.forms import repaired
from cachemedicpp.repair.operator import RepairOperator
from cachemedicpp.repair.parts import Side
from cachemedicpp.repair.spec import HeadLayout, OperatorSpec
from helpers.repair_toys import random_block, random_operator
from modelwright.errors import ConfigError, LoadError

LAYOUT = HeadLayout(head_dim=8, kv_heads=2, query_heads=4)
GPT2_MEDIUM = HeadLayout(head_dim=64, kv_heads=16, query_heads=16)
VARIANTS = [{"family": "A"}, {"family": "B"}, {"family": "B", "orthonormal": False}, {"family": "C"}, {"family": "C", "base": "B"}]


def new(layout: HeadLayout = GPT2_MEDIUM, **options: object) -> RepairOperator:
    return RepairOperator(OperatorSpec(**{"rank": 4, "protect_layers": (0,), **options}), layout)  # type: ignore[arg-type]


@pytest.mark.parametrize(("rank", "a", "b"), [(4, 1584, 1072), (8, 3232, 2208), (16, 6720, 4672)])
def test_parameter_counts_of_the_specification(rank: int, a: int, b: int) -> None:
    assert new(rank=rank, family="A").parameter_count() == a
    assert new(rank=rank, family="B", orthonormal=False).parameter_count() == b
    assert new(rank=rank, family="B").parameter_count() == b + 2 * rank
    assert new(rank=rank, family="A", protect_layers=(3, 5, 7)).parameter_count() == 3 * a
    assert new(rank=rank, family="C", protect_layers=(3, 5, 7)).parameter_count() == a + (3 + 16) * 64
    assert new(rank=rank, family="A", apply_to="V").parameter_count() == a // 2
    assert new(rank=rank, family="A", share_across_heads=False).parameter_count() == 16 * a


def test_an_unused_side_has_no_parameters() -> None:
    assert {name.split(".")[1] for name in new(family="A", apply_to="K").state_dict()} == {"key"}
    assert {name.split(".")[1] for name in new(family="D", apply_to="V").state_dict()} == {"value"}


def test_state_is_named_by_layer_and_shared_tensors_must_agree() -> None:
    operator = new(family="C", protect_layers=(2, 9))
    state = operator.state_dict()
    assert {name.split(".")[0] for name in state} == {"layer_2", "layer_9"}
    operator.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
    damaged = {name: tensor.clone() for name, tensor in state.items()}
    damaged["layer_9.key.W"] += 1
    with pytest.raises(LoadError, match=r"layer_9\.key\.W differs from layer_2\.key\.W"):
        operator.load_state_dict(damaged)


def test_parameters_stay_float32_in_a_half_precision_model() -> None:
    operator = new(family="D").to(torch.bfloat16).half()
    assert {parameter.dtype for parameter in operator.parameters()} == {torch.float32}
    half = torch.randn(1, 16, 3, 64, dtype=torch.bfloat16)
    coefficients = operator.coefficients(0, half)
    assert coefficients.a is not None and coefficients.a.dtype == torch.float32


def test_a_rank_above_the_head_dimension_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"repair\.rank: found 65"):
        new(family="A", rank=65)


@pytest.mark.parametrize(
    ("variant", "sides", "share", "rows"),
    list(product([*VARIANTS, {"family": "D"}], ["K", "V", "KV"], [True, False], ["per_query", "last"])),
)
def test_formulas_match_a_loop(variant: dict, sides: str, share: bool, rows: str) -> None:
    operator = random_operator(LAYOUT, **variant, apply_to=sides, share_across_heads=share, gate_rows=rows)
    block, layer = random_block(LAYOUT, batch=2, rows=3, tokens=3), operator.layer(0)
    c = operator.coefficients(0, block.query)
    for name, side, x, gate, u in (("keys", layer.key, block.key, c.a, c.u), ("values", layer.value, block.value, c.b, c.uv)):
        if side is None:
            assert gate is None and u is None
            continue
        terms = layer_term(layer, name, x)
        for row in range(3):
            got = repaired(x, terms, gate, u, 4, row)
            expected = _by_loops(operator, side, block.query[:, :, -1 if rows == "last" else row], x)
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def _by_loops(operator: RepairOperator, side: Side, q: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The table of 3.2 and the formula of 12.5, one vector at a time; q [B, Hq, d], x [B, Hkv, T, d] to [B, Hq, T, d]."""
    layer = operator.layer(0)
    out = torch.empty(x.shape[0], q.shape[1], *x.shape[2:], dtype=x.dtype)
    for b, h, t in product(range(x.shape[0]), range(q.shape[1]), range(x.shape[2])):
        g = h // LAYOUT.group
        own = {name: p if operator.spec.share_across_heads else p[g] for name, p in side.named_parameters()}
        gate_input = q[b, h]
        if operator.spec.family == "C":
            gate_input = gate_input + layer.layer_embedding + layer.head_embedding[h]
        hidden = own["W1"] @ gate_input + own["b1"]
        s = 0.9 / (1 + torch.exp(-(own["W2"] @ (hidden / (1 + torch.exp(-hidden))) + own["b2"])))
        v = x[b, g, t]
        if operator.spec.base == "B":
            basis = torch.linalg.qr(own["W"]).Q if operator.spec.orthonormal else own["W"]
            removed = s * own["c"].clamp(0, 1) if operator.spec.orthonormal else 1 - s
            out[b, h, t] = v - basis @ (removed * (basis.T @ v))
            continue
        projected = own["W"].T @ v
        if operator.spec.family == "D":
            rms = math.sqrt(float((v * v).mean()) + 1e-8)
            features = torch.cat([torch.tensor([math.log(rms), float(v.abs().max()) / rms], dtype=v.dtype), own["token.basis"] @ v / rms])
            inner = own["token.W3"] @ features
            projected = projected * torch.sigmoid(own["token.w2"][0] @ (inner * torch.sigmoid(inner)) + own["token.b2"])
        out[b, h, t] = v + own["U"] @ (s * projected)
    return out.detach()


@pytest.mark.parametrize("variant", [v for v in [*VARIANTS, {"family": "D"}] if v.get("orthonormal") is not False])
def test_a_new_operator_is_the_exact_identity(variant: dict) -> None:
    operator, block = new(LAYOUT, **variant), random_block(LAYOUT, rows=2, dtype=torch.float32)
    c = operator.coefficients(0, block.query)
    for name, x, gate, u in (("keys", block.key, c.a, c.u), ("values", block.value, c.b, c.uv)):
        changed = repaired(x, layer_term(operator.layer(0), name, x), gate, u, 4, 0)
        assert torch.equal(changed, x.repeat_interleave(2, dim=1))


def test_a_new_plain_basis_is_almost_the_identity() -> None:
    operator, block = new(LAYOUT, family="B", orthonormal=False), random_block(LAYOUT, dtype=torch.float32)
    c = operator.coefficients(0, block.query)
    changed = repaired(block.key, layer_term(operator.layer(0), "keys", block.key), c.a, c.u, 4, 0)
    assert 0 < (changed - block.key.repeat_interleave(2, dim=1)).abs().max() < 1e-4


def test_every_new_operator_can_learn() -> None:
    """Something receives gradient at the identity, and c, which starts on its border, moves inwards."""
    for variant in [*VARIANTS, {"family": "D"}]:
        operator, block = new(LAYOUT, **variant), random_block(LAYOUT, dtype=torch.float32)
        c = operator.coefficients(0, block.query)
        changed = repaired(block.key, layer_term(operator.layer(0), "keys", block.key), c.a, c.u, 4, 0)
        (changed - 0.5 * block.key.repeat_interleave(2, dim=1)).square().sum().backward()
        gradients = [p.grad for p in operator.parameters() if p.grad is not None]
        assert any(bool(gradient.abs().sum() > 0) for gradient in gradients), variant


def test_an_orthonormal_basis_shrinks_and_never_expands_after_training() -> None:
    operator = new(LAYOUT, family="B", alpha_max=0.9)
    block = random_block(LAYOUT, dtype=torch.float32)
    optimizer = torch.optim.Adam(operator.parameters(), lr=0.3)
    for step in range(30):
        c = operator.coefficients(0, block.query)
        changed = repaired(block.key, layer_term(operator.layer(0), "keys", block.key), c.a, c.u, 4, 0)
        loss = (changed.square().sum()) * (1 if step < 20 else -1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    side = operator.layer(0).key
    assert side is not None and float(side.c.detach().max()) > 0.1
    c = operator.to(torch.float64).coefficients(0, block.query.double())
    assert c.a is not None and c.w is not None
    for head in range(4):
        shrink = (1 + c.a[0, head, 0]).detach()
        assert float(shrink.min()) >= 1 - 0.9 - 1e-12 and float(shrink.max()) <= 1
        matrix = (torch.eye(8, dtype=torch.float64) + c.w @ torch.diag(c.a[0, head, 0]) @ c.w.T).detach()
        expected = torch.cat([torch.ones(4, dtype=torch.float64), shrink]).sort().values
        torch.testing.assert_close(torch.linalg.eigvalsh(matrix), expected, rtol=0, atol=1e-6)
        assert torch.linalg.matrix_norm(matrix, 2) <= 1 + 1e-12


def test_kept_matrices_follow_every_change_of_a_parameter() -> None:
    operator, block = random_operator(LAYOUT, family="B", dtype=torch.float32), random_block(LAYOUT, dtype=torch.float32)

    def now(of: RepairOperator) -> torch.Tensor:
        with torch.no_grad():
            a = of.coefficients(0, block.query).a
        assert a is not None
        return a

    first = now(operator)
    twin = copy.deepcopy(operator)
    with torch.no_grad():
        operator.layer(0).key.b2.add_(1.0)  # type: ignore[union-attr]
    assert not torch.equal(now(operator), first) and torch.equal(now(twin), first)
    twin.load_state_dict(operator.state_dict())
    assert torch.equal(now(twin), now(operator))
    assert now(operator.to(torch.float64)).dtype == torch.float64
    with torch.inference_mode():
        assert torch.equal(operator.coefficients(0, block.query).a, now(operator))


def test_detached_gates_send_no_gradient_to_the_query() -> None:
    operator = random_operator(LAYOUT)
    query = random_block(LAYOUT).query.requires_grad_()
    c = operator.coefficients(0, query, detach=True)
    assert c.a is not None and c.b is not None and c.uq is None
    (c.a.sum() + c.b.sum()).backward()
    assert query.grad is None
    assert operator.layer(0).key.W1.grad is not None  # type: ignore[union-attr]
