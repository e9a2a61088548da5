"""Materialised, extended and collapsed attention agree; what a form cannot express is refused by name. (12.3, 12.4, 12.6)"""

from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cachemedicpp.repair.cache import RepairLayer, layer_term
from cachemedicpp.repair.forms import (
    FormError,
    collapsed,
    extended,
    kernel_width,
    materialised,
    old_tokens_only,
    repaired,
    require_form,
    sdpa_kernel,
    single_row,
    wide_attention,
)
from cachemedicpp.repair.operator import RepairOperator
from cachemedicpp.repair.row_plan import collapsed_rows, extended_rows
from cachemedicpp.repair.spec import HeadLayout, OperatorSpec
from helpers.repair_toys import Block, random_block, random_operator

FAMILIES = [{"family": "A"}, {"family": "B"}, {"family": "B", "orthonormal": False}, {"family": "C"}, {"family": "C", "base": "B"}]
GROUPED, SINGLE = HeadLayout(16, 2, 8), HeadLayout(16, 4, 4)
SHAPES = [{"rows": 1}, {"rows": 17}, {"rows": 5}]


def terms(operator: RepairOperator, block: Block) -> tuple[Tensor | None, Tensor | None]:
    layer = operator.layer(0)
    return (
        layer_term(layer, "keys", block.key) if layer.key else None,
        layer_term(layer, "values", block.value) if layer.value else None,
    )


def three(operator: RepairOperator, block: Block, scale: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Materialised, extended and collapsed outputs."""
    c = operator.coefficients(0, block.query)
    rest = (*block, scale, c)
    return materialised(*rest), extended(*rest), collapsed(*rest)


@pytest.mark.parametrize(("layout", "batch", "rotary"), list(product([GROUPED, SINGLE], [1, 3], [False, True])))
def test_folded_forms_equal_the_materialised_one(layout: HeadLayout, batch: int, rotary: bool) -> None:
    with torch.no_grad():
        for family, sides, shape, share in product(FAMILIES, ["KV", "K", "V"], SHAPES, [True, False]):
            operator = random_operator(layout, **family, apply_to=sides, share_across_heads=share)
            block = random_block(layout, batch=batch, rotary=rotary, padded=batch > 1 and shape["rows"] != 17, **shape)
            reference, wide, narrow = three(operator, block, scale=0.3)
            plain = F.scaled_dot_product_attention(
                block.query,
                block.key,
                block.value,
                attn_mask=block.mask,
                is_causal=shape["rows"] == 17,
                scale=0.3,
                enable_gqa=True,
            )
            assert (reference - plain).abs().max() > 1e-2, "the repair does nothing"
            torch.testing.assert_close(wide, reference, rtol=0, atol=1e-12)
            torch.testing.assert_close(narrow, reference, rtol=0, atol=1e-12)
            plan = operator.layer(0).row_plan()
            assert (plan is None) == (not share or operator.spec.orthonormal is not (operator.spec.base == "B"))
            if plan is not None:
                torch.testing.assert_close(collapsed_rows(*block, 0.3, plan, sdpa_kernel), reference, rtol=0, atol=1e-12)
            single = Block(*(x.float() if x is not None and x.is_floating_point() else x for x in block))
            reference, wide, narrow = three(operator.float(), single, scale=0.3)
            torch.testing.assert_close(wide, reference, rtol=0, atol=1e-5)
            torch.testing.assert_close(narrow, reference, rtol=0, atol=1e-5)


def test_the_settings_of_the_published_check_and_half_precision() -> None:
    """B=3, 8 query and 2 KV heads, d=64, r=8, rotary keys, causal prefill T=33 and decode T=97 (12.6)."""
    layout = HeadLayout(64, 2, 8)
    operator = random_operator(layout, family="A", rank=8)
    with torch.no_grad():
        for parameter in operator.parameters():
            parameter.mul_(0.4)
        for rows, tokens in ((33, 33), (1, 97)):
            block = random_block(layout, batch=3, rows=rows, tokens=tokens, rotary=True)
            exact = three(operator.double(), block)
            assert max(float((form - exact[0]).abs().max()) for form in exact) < 1e-13
            half = Block(*(x if x is None else x.bfloat16() for x in block))
            errors = [float((form.double() - exact[0]).abs().max()) for form in three(operator.float(), half)]
            assert max(errors[1:]) < 2 * errors[0] + 1e-3 and errors[0] < 0.1
            assert all(form.dtype == torch.bfloat16 for form in three(operator, half))


def test_last_row_gates_agree_too() -> None:
    operator, block = random_operator(GROUPED, gate_rows="last"), random_block(GROUPED, batch=2, rows=17)
    reference, wide, narrow = three(operator, block)
    torch.testing.assert_close(wide, reference, rtol=0, atol=1e-12)
    torch.testing.assert_close(narrow, reference, rtol=0, atol=1e-12)


def test_the_scale_of_a_wider_kernel_gives_another_result() -> None:
    """Guard: with 1/sqrt(d + r) the forms no longer agree, so the comparison above would notice."""

    def forgetful(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        return sdpa_kernel(query, key, value, mask, query.shape[-1] ** -0.5)

    operator, block = random_operator(GROUPED, rank=8), random_block(GROUPED, rows=17)
    c = operator.coefficients(0, block.query)
    wrong = extended(*block, None, c, kernel=forgetful)
    assert (wrong - materialised(*block, None, c)).abs().max() > 1e-3


@pytest.mark.parametrize(("sides", "rows", "neighbour"), list(product(["KV", "K", "V"], [1, 17, 5], [False, True])))
def test_the_token_gate_in_extended_form_equals_its_reference(sides: str, rows: int, neighbour: bool) -> None:
    from cachemedicpp.repair.spec import TokenGateSpec

    gate = TokenGateSpec(neighbour=neighbour)
    operator = random_operator(GROUPED, family="D", apply_to=sides, token_gate=gate)
    block = random_block(GROUPED, batch=2, rows=rows)
    c, (key_terms, value_terms) = operator.coefficients(0, block.query), terms(operator, block)
    wide = extended(*block, None, c, key_terms, value_terms)
    torch.testing.assert_close(wide, materialised(*block, None, c, key_terms, value_terms), rtol=0, atol=1e-12)
    with pytest.raises(FormError, match=r"collapsed.*token-dependent"):
        collapsed(*block, None, c)
    with pytest.raises(FormError, match=r"collapsed.*family D"):
        require_form("collapsed", operator.spec, 16)
    as_if_uniform = c._replace(token_gated=False)
    assert (collapsed(*block, None, as_if_uniform) - wide).abs().max() > 1e-2


@pytest.mark.parametrize(("layout", "family", "sides"), list(product([GROUPED, SINGLE], ["A", "B", "C", "D"], ["KV", "K", "V"])))
def test_the_extended_form_for_inference_gives_the_numbers_of_the_general_one(layout: HeadLayout, family: str, sides: str) -> None:
    operator = random_operator(layout, family=family, apply_to=sides)
    for rows, dtype, tolerance in (
        (1, torch.float64, 1e-12),
        (5, torch.float64, 1e-12),
        (1, torch.float32, 1e-5),
        (1, torch.bfloat16, 0.1),
    ):
        block = random_block(layout, batch=2, rows=rows, dtype=dtype)
        operator.to(torch.float64 if dtype == torch.float64 else torch.float32)
        with torch.no_grad():
            key, value = RepairLayer(operator.layer(0)).update(block.key, block.value)
            c, plan = operator.coefficients(0, block.query), operator.layer(0).row_plan("extended")
            assert plan is not None
            reference = materialised(*block, 0.3, c, *terms(operator, block))
            got = extended_rows(block.query, key, value, block.mask, 0.3, plan, c.token_gated, partial(wide_attention, kernel=sdpa_kernel))
        assert got.dtype == dtype
        torch.testing.assert_close(got, reference, rtol=0, atol=tolerance)
    assert operator.layer(0).row_plan("extended") is None, "with gradients the general form runs"


def test_renormalisation_is_refused_by_every_folded_form() -> None:
    operator, block = random_operator(GROUPED, renormalise=True), random_block(GROUPED)
    for form in ("collapsed", "extended"):
        with pytest.raises(FormError, match=f"{form}.*renormalisation"):
            require_form(form, operator.spec, 16)
    c = operator.coefficients(0, block.query)
    for form in (collapsed, extended):
        with pytest.raises(FormError, match="renormalisation"):
            form(*block, None, c)
    require_form("materialised", operator.spec, 16)
    moved = repaired(block.key, terms(operator, block)[0], c.a, c.u, 8, renormalise=True)
    torch.testing.assert_close(moved.norm(dim=-1), block.key.norm(dim=-1).repeat_interleave(4, dim=1))
    folded = extended(*block, None, c._replace(renormalise=False))
    assert (folded - materialised(*block, None, c)).abs().max() > 1e-2


def test_widths() -> None:
    assert [kernel_width(width) for width in (64, 65, 72, 249)] == [64, 72, 72, 256]
    spec = OperatorSpec(family="D", rank=4, protect_layers=(0,))
    require_form("extended", spec, 252)
    with pytest.raises(FormError, match="width of 264"):
        require_form("extended", spec, 256)
    with pytest.raises(FormError, match="'flat'"):
        require_form("flat", spec, 64)


@pytest.mark.parametrize(("rows", "recent"), [(1, 5), (17, 5), (5, 0), (5, 17), (1, 40)])
def test_only_old_tokens_are_repaired(rows: int, recent: int) -> None:
    operator, block = random_operator(GROUPED), random_block(GROUPED, batch=2, rows=rows, padded=rows == 5)
    c = operator.coefficients(0, block.query)
    got = old_tokens_only(*block, None, c, recent)
    old = (torch.arange(17) < 17 - recent)[:, None]
    key_terms, value_terms = terms(operator, block)
    mask = block.mask if block.mask is not None or rows == 1 else torch.ones(17, 17, dtype=torch.bool).tril()[None, None]
    for row in range(rows):
        k_hat = torch.where(old, repaired(block.key, key_terms, c.a, c.u, 8, row), block.key.repeat_interleave(4, 1))
        v_hat = torch.where(old, repaired(block.value, value_terms, c.b, c.uv, 8, row), block.value.repeat_interleave(4, 1))
        seen = None if mask is None else mask[:, :, row : row + 1]
        expected = F.scaled_dot_product_attention(block.query[:, :, row : row + 1], k_hat, v_hat, attn_mask=seen)
        torch.testing.assert_close(got[:, :, row : row + 1], expected, rtol=0, atol=1e-12)


def test_a_single_row_takes_bool_and_additive_masks() -> None:
    block = random_block(GROUPED, batch=3, padded=True)
    expected = sdpa_kernel(*block, 0.25)
    torch.testing.assert_close(single_row(*block, 0.25), expected, rtol=0, atol=1e-12)
    assert block.mask is not None
    additive = torch.zeros(block.mask.shape, dtype=torch.float64).masked_fill(~block.mask, -1e30)
    torch.testing.assert_close(single_row(*block[:3], additive, 0.25), expected, rtol=0, atol=1e-12)
