"""The cache of the extended form: what it stores, and that its terms follow their tokens."""

import copy
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from cachemedicpp.repair.attention import protecting
from cachemedicpp.repair.cache import SPARE_TOKENS, RepairLayer, extend_cache, layer_term
from cachemedicpp.repair.operator import layout_of
from cachemedicpp.repair.spec import HeadLayout, TokenGateSpec
from helpers.repair_toys import random_block, random_operator
from helpers.tiny_random import random_llama
from modelwright.errors import UsageError

LAYOUT = HeadLayout(16, 2, 4)
CHECKED = TokenGateSpec(neighbour=True, checksum=True)


def layer_of(**options: Any) -> RepairLayer:
    return RepairLayer(random_operator(LAYOUT, rank=3, **options).layer(0))


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        ({"family": "A"}, {"keys": 3, "values": 0, "checks": 0}),
        ({"family": "A", "apply_to": "V"}, {"keys": 0, "values": 0, "checks": 0}),
        ({"family": "B", "apply_to": "K"}, {"keys": 3, "values": 0, "checks": 0}),
        ({"family": "D"}, {"keys": 3, "values": 3, "checks": 0}),
        ({"family": "D", "apply_to": "V"}, {"keys": 0, "values": 3, "checks": 0}),
        ({"family": "D", "token_gate": CHECKED}, {"keys": 3, "values": 3, "checks": 6}),
    ],
)
def test_exactly_r_extra_values_for_each_side_that_needs_them(options: dict, extra: dict) -> None:
    layer, block = layer_of(**options), random_block(LAYOUT, batch=2, tokens=5)
    wide = layer.update(block.key, block.value)
    assert layer.extra_values_per_token() == extra
    assert [x.shape[-1] - 16 for x in wide] == [extra["keys"], extra["values"]]
    held = sum(x.numel() for x in (*layer._wide.values(), *layer._checks.values()))
    assert held == 2 * 2 * 5 * (32 + sum(extra.values()))


def test_the_collapsed_form_stores_nothing() -> None:
    model = random_llama()
    operator = random_operator(layout_of(model), dtype=torch.float32, protect_layers=(0, 1))
    cache, plain = DynamicCache(config=model.config), DynamicCache(config=model.config)
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        model(ids, past_key_values=plain)
        with protecting(model, operator):
            model(ids, past_key_values=cache)
    for held, reference in zip(cache.layers, plain.layers, strict=True):
        assert type(held) is type(reference) and vars(held).keys() == vars(reference).keys()
        assert held.keys.shape == reference.keys.shape and held.values.shape == reference.values.shape


def test_terms_grow_token_by_token_as_in_one_block() -> None:
    block = random_block(LAYOUT, batch=2, tokens=7)
    grown, whole = layer_of(family="D", token_gate=CHECKED), layer_of(family="D", token_gate=CHECKED)
    whole.update(block.key, block.value)
    for part in (slice(0, 4), slice(4, 5), slice(5, 7)):
        grown.update(block.key[:, :, part], block.value[:, :, part])
    torch.testing.assert_close(grown._wide, whole._wide, rtol=0, atol=1e-12)
    torch.testing.assert_close(grown._checks, whole._checks, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{}, {"apply_to": "K"}, {"apply_to": "V"}, {"token_gate": TokenGateSpec(basis=0)}, {"token_gate": TokenGateSpec(checksum=True)}],
)
def test_merged_token_gates_give_the_numbers_of_the_gates(options: dict) -> None:
    layer, block = layer_of(family="D", **options), random_block(LAYOUT, batch=2, tokens=5)
    with torch.no_grad():
        assert layer.repair.token_plan() is not None
        layer.update(block.key, block.value)
        for name, x in (("keys", block.key), ("values", block.value)):
            side = layer._side(name)  # type: ignore[arg-type]
            expected = x if side is None else torch.cat([x, layer_term(layer.repair, name, x)], dim=-1)  # type: ignore[arg-type]
            torch.testing.assert_close(layer._wide[name], expected, rtol=0, atol=1e-12)  # type: ignore[index]
            if name in layer._checks:
                torch.testing.assert_close(layer._checks[name], side.check(x), rtol=0, atol=1e-12)  # type: ignore[index]


def test_merged_token_gates_follow_their_parameters() -> None:
    block = random_block(LAYOUT, tokens=3)
    first, second = layer_of(family="D"), layer_of(family="D", seed=1)
    with torch.no_grad():
        second.update(block.key, block.value)
        first.repair.token_plan()
        for old, new in zip(first.repair.parameters(), second.repair.parameters(), strict=True):
            old.copy_(new)
        first.update(block.key, block.value)
    torch.testing.assert_close(first._wide, second._wide, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"family": "A"}, {"family": "B"}, {"family": "D", "token_gate": CHECKED}])
def test_spare_room_changes_nothing_that_was_handed_out(options: dict) -> None:
    length = SPARE_TOKENS + 20
    block = random_block(LAYOUT, tokens=length)
    grown, whole = layer_of(**options), layer_of(**options)
    with torch.no_grad():
        whole.update(block.key, block.value)
        grown.update(block.key[:, :, :8], block.value[:, :, :8])
        places: list[int] = []
        for at in range(8, length):
            keys, _ = grown.update(block.key[:, :, at : at + 1], block.value[:, :, at : at + 1])
            places.append(keys.data_ptr())
        assert len(set(places)) == 2, "a step copied the cache"
        torch.testing.assert_close(grown._wide, whole._wide, rtol=0, atol=1e-12)
        torch.testing.assert_close(grown._checks, whole._checks, rtol=0, atol=1e-12)
        twin, kept = copy.deepcopy(grown), keys.clone()
        twin.update(block.key[:, :, :1], block.value[:, :, :1])
        grown.crop(-3)
        grown.update(block.key[:, :, :2], block.value[:, :, :2])
        assert torch.equal(keys, kept), "tokens after a crop overwrote those that someone still holds"
    assert twin.get_seq_length() == length + 1 and grown.get_seq_length() == length - 1


def test_spare_room_and_the_modes_of_torch() -> None:
    block, layer = random_block(LAYOUT, tokens=6), layer_of(family="D")

    def step(at: int) -> torch.Tensor:
        return layer.update(block.key[:, :, at : at + 1], block.value[:, :, at : at + 1])[0]

    with torch.inference_mode():
        step(0), step(1)
    with torch.no_grad():
        step(2)
    query = block.query[..., :1].clone().requires_grad_()
    (query * step(3)[..., :1].sum()).square().sum().backward()
    product = (query * step(4)[0, 0, 0, 0]).square().sum()
    with torch.no_grad():
        step(5)
    product.backward()
    assert query.grad is not None and layer.get_seq_length() == 6


def test_terms_move_with_their_tokens() -> None:
    block = random_block(LAYOUT, batch=3, tokens=7)
    layer = layer_of(family="D", token_gate=CHECKED)
    layer.starts = torch.tensor([0, 2, 4])
    layer.update(block.key, block.value)
    first = {**layer._wide, **{"check " + name: x for name, x in layer._checks.items()}}
    layer.crop(-2)
    layer.reorder_cache(torch.tensor([2, 0, 1]))
    layer.batch_repeat_interleave(2)
    layer.batch_select_indices(torch.tensor([0, 2]))
    now = {**layer._wide, **{"check " + name: x for name, x in layer._checks.items()}}
    assert all(torch.equal(now[name], first[name][torch.tensor([2, 0]), :, :5]) for name in first)
    assert layer.starts.tolist() == [4, 0] and layer.get_seq_length() == 5
    layer.update(block.key[:2, :, 5:6], block.value[:2, :, 5:6])
    assert layer.get_seq_length() == 6
    twin = copy.deepcopy(layer)
    layer.reset()
    assert layer.get_seq_length() == 0 and twin.get_seq_length() == 6 and twin.repair is layer.repair
    with pytest.raises(UsageError, match="negative"):
        twin.crop(3)


def test_a_fault_after_the_write_meets_fresh_terms_and_the_checksums_of_the_write() -> None:
    block = random_block(LAYOUT, batch=1, tokens=6)
    layer = layer_of(family="D", token_gate=CHECKED)
    layer.update(block.key, block.value)
    check = layer.repair.key.check(block.key)  # type: ignore[union-attr]
    struck = block.key.clone()
    struck[:, :, 2] += 1.5
    layer.keys = struck
    assert torch.equal(layer.keys, struck)
    torch.testing.assert_close(layer._wide["keys"][..., 16:], layer_term(layer.repair, "keys", struck, check).detach())
    assert torch.equal(layer._checks["keys"], check)
    assert (layer_term(layer.repair, "keys", struck) - layer._wide["keys"][..., 16:])[:, :, 2].abs().max() > 1e-4
    layer.keys[:, :, 3] = 0.0
    stale = layer._wide["keys"].clone()
    layer.refresh()
    assert not torch.equal(layer._wide["keys"][:, :, 3, 16:], stale[:, :, 3, 16:])
    with pytest.raises(UsageError, match="token by token"):
        layer.keys = struck[:, :, :4]


def test_an_extended_cache_of_damaged_tokens_takes_the_checksums_of_the_clean_ones() -> None:
    """Three ways to the same logits: plain cache with `checks`, extended after the damage, extended before it."""
    model = random_llama()
    operator = random_operator(
        layout_of(model), family="D", protect_layers=(1,), token_gate=TokenGateSpec(checksum=True), dtype=torch.float32
    )
    ids, tail = torch.tensor([[1, 2, 3, 4, 5, 6]]), torch.tensor([[7, 8]])

    def prefilled(extended: bool) -> DynamicCache:
        cache = DynamicCache(config=model.config)
        model(ids, past_key_values=extend_cache(cache, operator) if extended else cache)
        return cache

    with torch.no_grad():
        with protecting(model, operator):
            plain, before = prefilled(False), prefilled(True)
        checks = {1: operator.checks(1, plain.layers[1].keys, plain.layers[1].values)}
        struck = plain.layers[1].keys.clone()
        struck[:, :, 1:3] = struck[:, :, 3:5]
        plain.layers[1].keys, before.layers[1].keys = struck, struck
        after = extend_cache(copy.deepcopy(plain), operator, checks)
        with protecting(model, operator, checks=checks):
            recomputed = model(tail, past_key_values=plain).logits
        with protecting(model, operator):
            outputs = [model(tail, past_key_values=cache).logits for cache in (after, before)]
            unchecked = model(tail, past_key_values=extend_cache(_cut(plain, 6), operator)).logits
    torch.testing.assert_close(outputs[0], recomputed, rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs[1], recomputed, rtol=0, atol=1e-5)
    assert (unchecked - recomputed).abs().max() > 1e-4


def _cut(cache: DynamicCache, length: int) -> DynamicCache:
    cache.crop(length - cache.get_seq_length())
    return cache


def test_a_cache_of_another_make_is_refused() -> None:
    model = random_llama()
    operator = random_operator(layout_of(model), dtype=torch.float32, protect_layers=(1,))
    with pytest.raises(UsageError, match="DynamicCache"):
        extend_cache(DynamicCache(), operator)
