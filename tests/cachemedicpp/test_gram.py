"""Penalties from Gram matrices equal those of the repaired cache itself, gradients included. (12.3 c, 4.2)"""

from itertools import product

import pytest
import torch
from torch import Tensor

from cachemedicpp.repair.cache import layer_term
from cachemedicpp.repair.forms import repaired
from cachemedicpp.repair.gram import contraction_ratio, identity_penalty
from cachemedicpp.repair.operator import RepairOperator
from cachemedicpp.repair.spec import HeadLayout, OperatorSpec, TokenGateSpec
from helpers.repair_toys import random_block, random_operator

LAYOUT = HeadLayout(8, 2, 4)
CASES = [({"family": "A"}, True), ({"family": "B"}, False), ({"family": "C"}, True), ({"family": "D"}, True)]


def direct(operator: RepairOperator, query: Tensor, damaged: dict, clean: dict, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Identity penalty of the clean cache and rho of the damaged one, from repaired keys and values."""
    layer = operator.layer(0)
    real = (torch.arange(9)[None] >= starts[:, None])[:, None, :, None]

    def norm2(x: Tensor) -> Tensor:
        return (x * real).square().sum(dim=(1, 2, 3))

    c = layer.coefficients(query)
    top = bottom = left = size = torch.zeros(2, dtype=torch.float64)
    for name, side, gate, u in (("keys", layer.key, c.a, c.u), ("values", layer.value, c.b, c.uv)):
        if side is None:
            continue
        check = side.check(clean[name])
        whole = clean[name].repeat_interleave(2, dim=1)
        kept = repaired(clean[name], layer_term(layer, name, clean[name], check), gate, u, 4)
        fixed = repaired(damaged[name], layer_term(layer, name, damaged[name], check), gate, u, 4)
        top, bottom = top + norm2(kept - whole), bottom + norm2(whole)
        left = left + norm2(fixed - whole).sqrt()
        size = size + norm2(damaged[name].repeat_interleave(2, dim=1) - whole).sqrt()
    return top / (bottom + 1e-8), left / (size + 1e-8)


@pytest.mark.parametrize(("case", "sides"), list(product(CASES, ["K", "V", "KV"])))
def test_gram_form_equals_the_direct_penalties(case: tuple[dict, bool], sides: str) -> None:
    options, share = case
    gate = {"token_gate": TokenGateSpec(checksum=True)} if options["family"] == "D" else {}
    operator = random_operator(LAYOUT, **options, **gate, share_across_heads=share, apply_to=sides)
    block = random_block(LAYOUT, batch=2, rows=3, tokens=9)
    clean = {"keys": block.key, "values": block.value}
    damaged = {name: x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) for name, x in clean.items()}
    starts = torch.tensor([0, 4])
    expected = direct(operator, block.query, damaged, clean, starts)
    layer = operator.layer(0)
    rho = contraction_ratio(layer, block.query, tuple(damaged.values()), tuple(clean.values()), starts)
    got = (identity_penalty(layer, block.query, *clean.values(), starts), rho.rho)
    assert bool(rho.effective.all())
    parameters = [p for p in operator.parameters() if p.requires_grad]
    for mine, reference in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=0)
        gradients = [torch.autograd.grad(x.sum(), parameters, allow_unused=True, retain_graph=True) for x in (mine, reference)]
        for a, b in zip(*gradients, strict=True):
            if a is None or b is None:
                assert a is None and b is None
            else:
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * float(b.abs().max()))


def test_a_new_operator_has_ratio_one_and_no_identity_penalty() -> None:
    operator = RepairOperator(OperatorSpec(family="D", rank=4, protect_layers=(0,)), LAYOUT)
    block = random_block(LAYOUT, batch=2, rows=2, tokens=9, dtype=torch.float32)
    damaged = (block.key + 0.2, block.value * 1.1)
    layer = operator.layer(0)
    ratio = contraction_ratio(layer, block.query, damaged, (block.key, block.value))
    torch.testing.assert_close(ratio.rho, torch.ones(2), rtol=0, atol=1e-5)
    penalty = identity_penalty(layer, block.query, block.key, block.value)
    assert torch.equal(penalty, torch.zeros(2))
    (ratio.rho.sum() + penalty.sum()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in operator.parameters() if p.grad is not None)


def test_a_corruption_without_effect_contributes_nothing() -> None:
    operator = random_operator(LAYOUT, dtype=torch.float32)
    block = random_block(LAYOUT, batch=2, tokens=9, dtype=torch.float32)
    damaged = block.key.clone()
    damaged[1] += 0.5
    ratio = contraction_ratio(operator.layer(0), block.query, (damaged, block.value), (block.key, block.value))
    assert ratio.effective.tolist() == [False, True]
    assert ratio.rho[0].item() == 0.0 and ratio.rho[1].item() > 0
    ratio.rho.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in operator.parameters() if p.grad is not None)
