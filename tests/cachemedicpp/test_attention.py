"""The repair inside whole models: identity at the start, batches, decoding, causality, hooks, refusals."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, DynamicCache, PreTrainedModel

from cachemedicpp.repair.attention import protecting, starts_in
from cachemedicpp.repair.cache import extend_cache
from cachemedicpp.repair.forms import FormError
from cachemedicpp.repair.operator import RepairOperator, layout_of
from cachemedicpp.repair.spec import OperatorSpec, TokenGateSpec
from helpers.repair_toys import random_operator
from helpers.tiny_random import random_gpt2, random_llama, random_qwen3
from modelwright.errors import ConfigError, UsageError

MODELS = [random_llama, random_qwen3, random_gpt2]
FORMS = [("A", "materialised"), ("A", "extended"), ("A", "collapsed"), ("D", "extended")]
PROMPTS = [[5, 9, 2, 77, 31, 8, 200, 14, 3], [101, 44], [7, 7, 19, 250, 6]]


def operator_for(model: PreTrainedModel, family: str = "A", **options: Any) -> RepairOperator:
    return random_operator(layout_of(model), family=family, protect_layers=(1,), dtype=torch.float32, **options)


def left_padded(prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask


def logits(model: PreTrainedModel, ids: Tensor, **options: Any) -> Tensor:
    with torch.no_grad():
        return model(ids, **options).logits


@pytest.mark.parametrize("build", MODELS)
def test_an_untrained_repair_changes_no_logit(build: Callable[[], PreTrainedModel]) -> None:
    model, (ids, mask) = build(), left_padded(PROMPTS)
    plain = logits(model, ids, attention_mask=mask)
    for family, form in [*FORMS, ("B", "collapsed"), ("C", "collapsed"), ("C", "extended")]:
        for options in ({"rank": 4}, {"rank": 4, "orthonormal": False} if family == "B" else {"rank": 8, "apply_to": "V"}):
            spec = OperatorSpec(family=family, protect_layers=(0, 1), **options)  # type: ignore[arg-type]
            with protecting(model, RepairOperator(spec, layout_of(model)), form):  # type: ignore[arg-type]
                repaired = logits(model, ids, attention_mask=mask)
            assert (repaired - plain).abs().max() <= 1e-4, (family, form, options)
    assert torch.equal(logits(model, ids, attention_mask=mask), plain), "the block left something behind"


def test_an_untrained_repair_in_half_precision() -> None:
    model, (ids, mask) = random_llama().bfloat16(), left_padded(PROMPTS)
    plain = logits(model, ids, attention_mask=mask)
    for family, form in FORMS:
        operator = RepairOperator(OperatorSpec(family=family, rank=4, protect_layers=(0, 1)), layout_of(model))  # type: ignore[arg-type]
        with protecting(model, operator, form):  # type: ignore[arg-type]
            assert (logits(model, ids, attention_mask=mask) - plain).abs().max() <= 5e-3, (family, form)


@pytest.mark.parametrize("build", MODELS)
def test_forms_agree_in_a_padded_batch(build: Callable[[], PreTrainedModel]) -> None:
    model, (ids, mask) = build(), left_padded(PROMPTS)
    for family in ("A", "B", "C"):
        operator, outputs = operator_for(model, family), []
        for form in ("materialised", "extended", "collapsed"):
            with protecting(model, operator, form):  # type: ignore[arg-type]
                outputs.append(logits(model, ids, attention_mask=mask))
        real = mask.bool()
        assert (outputs[0] - logits(model, ids, attention_mask=mask))[real].abs().max() > 1e-3
        torch.testing.assert_close(outputs[1][real], outputs[0][real], rtol=0, atol=2e-5)
        torch.testing.assert_close(outputs[2][real], outputs[0][real], rtol=0, atol=2e-5)


@pytest.mark.parametrize(("build", "case"), list(product(MODELS, FORMS[1:])))
def test_generation_from_a_padded_batch_equals_single_runs(build: Callable[[], PreTrainedModel], case: tuple[str, str]) -> None:
    model, (family, form) = build(), case
    gate = {"token_gate": TokenGateSpec(neighbour=True)} if family == "D" else {}
    operator = operator_for(model, family, **gate)

    def generate(prompts: list[list[int]]) -> tuple[list[list[int]], Tensor]:
        ids, mask = left_padded(prompts)
        starts = (1 - mask).sum(dim=1)
        cache = DynamicCache(config=model.config)
        if form == "extended":
            extend_cache(cache, operator, starts=starts)
        options = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None, "return_dict_in_generate": True}
        with protecting(model, operator, form):  # type: ignore[arg-type]
            out = model.generate(ids, attention_mask=mask, past_key_values=cache, output_logits=True, **options)
        return out.sequences[:, ids.shape[1] :].tolist(), torch.stack(out.logits, dim=1)

    together, scores = generate(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        alone, single = generate([prompt])
        assert alone[0] == together[row]
        torch.testing.assert_close(scores[row], single[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("build", "case"), list(product(MODELS, FORMS)))
def test_token_by_token_equals_one_pass(build: Callable[[], PreTrainedModel], case: tuple[str, str]) -> None:
    model, (family, form) = build(), case
    gate = {"token_gate": TokenGateSpec(neighbour=True, checksum=True)} if family == "D" else {}
    operator, ids = operator_for(model, family, **gate), torch.tensor([PROMPTS[0] * 2])
    with protecting(model, operator, form):  # type: ignore[arg-type]
        whole = logits(model, ids)
        size = float(whole.std())  # 7 to 9: the random weights are large, and the tolerance is meant for logits of size 1
        for extended in (False, True) if form == "extended" else (False,):
            cache = DynamicCache(config=model.config)
            if extended:
                extend_cache(cache, operator)
            steps = [logits(model, ids[:, i : i + 1], past_key_values=cache, use_cache=True) for i in range(ids.shape[1])]
            torch.testing.assert_close(torch.cat(steps, dim=1) / size, whole / size, rtol=0, atol=1e-5)
        changed = ids.clone()
        changed[0, -1] = 99
        torch.testing.assert_close(logits(model, changed)[:, :-1], whole[:, :-1], rtol=0, atol=1e-6)


def test_last_row_gates_let_a_later_token_speak() -> None:
    """What `per_query` avoids: kept for reproduction only. [C10]"""
    model, ids = random_llama(), torch.tensor([PROMPTS[0]])
    changed = ids.clone()
    changed[0, -1] = 99
    with protecting(model, operator_for(model, gate_rows="last")):
        assert (logits(model, changed) - logits(model, ids))[:, :-1].abs().max() > 1e-4


def test_the_hook_sees_clean_tensors_and_the_repair_acts_on_what_it_returns() -> None:
    model, (ids, mask) = random_llama(), left_padded(PROMPTS)
    operator, heard, seen = operator_for(model), [], []

    def corrupt(layer: int, key: Tensor, value: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        assert starts is not None
        heard.append((layer, starts.tolist()))
        return key * 0.5, value + 1

    def observe(layer: int, query: Tensor, key: Tensor, value: Tensor) -> None:
        seen.append((layer, tuple(query.shape), tuple(key.shape)))

    outputs = []
    for form in ("materialised", "extended", "collapsed"):
        with protecting(model, operator, form, corrupt=corrupt, observe=observe):  # type: ignore[arg-type]
            outputs.append(logits(model, ids, attention_mask=mask)[mask.bool()])
    assert heard == [(1, [0, 7, 4])] * 3
    assert seen == [(1, (3, 4, 9, 16), (3, 2, 9, 16))] * 3
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(outputs[2], outputs[0], rtol=0, atol=2e-5)
    with protecting(model, None, corrupt=corrupt, layers=[1]):
        undefended = logits(model, ids, attention_mask=mask)[mask.bool()]
    assert (undefended - outputs[0]).abs().max() > 1e-3
    assert (undefended - logits(model, ids, attention_mask=mask)[mask.bool()]).abs().max() > 1e-3


def test_inline_corruption_shows_in_the_checksums() -> None:
    """Family D with checksums: the hook's input is what the checksum was taken from, also with an extended cache."""
    model, ids = random_llama(), torch.tensor([PROMPTS[0]])
    operator = operator_for(model, "D", token_gate=TokenGateSpec(checksum=True))

    def run(cache: DynamicCache, checks: dict | None = None) -> Tensor:
        with protecting(model, operator, corrupt=lambda layer, key, value, starts: (key + 0.5, value), checks=checks):
            return logits(model, ids, past_key_values=cache)

    plain = run(DynamicCache(config=model.config))
    torch.testing.assert_close(run(extend_cache(DynamicCache(config=model.config), operator)), plain)
    blind = random_operator(layout_of(model), family="D", protect_layers=(1,), dtype=torch.float32, token_gate=TokenGateSpec(checksum=True))
    side = blind.layer(1).key
    assert side is not None and side.token is not None
    with torch.no_grad():
        side.token.W3[:, 6:] = 0.0  # the columns of the residual: 2 + 4 come before
        operator = blind
    assert (run(DynamicCache(config=model.config)) - plain).abs().max() > 1e-4


def test_detach_keeps_gradient_in_the_operator() -> None:
    model, ids = random_llama().requires_grad_(False), torch.tensor([PROMPTS[0]])
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    gradients = []
    for form in ("materialised", "extended", "collapsed"):
        operator = operator_for(model)
        with protecting(model, operator, form, detach=True):  # type: ignore[arg-type]
            model(inputs_embeds=embeddings).logits[:, -1].square().sum().backward()
        gradients.append([p.grad for p in operator.parameters()])
    for folded in gradients[1:]:
        for a, b in zip(folded, gradients[0], strict=True):
            assert a is not None and b is not None
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def test_nested_blocks_give_back_what_was_there() -> None:
    model, ids = random_llama(), torch.tensor([PROMPTS[0]])
    first, second = operator_for(model, seed=1), operator_for(model, seed=2)
    with protecting(model, first):
        outer = logits(model, ids)
        with protecting(model, second):
            assert not torch.equal(logits(model, ids), outer)
        assert torch.equal(logits(model, ids), outer)
        with pytest.raises(ZeroDivisionError), protecting(model, second):
            raise ZeroDivisionError
        assert torch.equal(logits(model, ids), outer)
    assert model.config._attn_implementation == "sdpa"


def test_what_cannot_be_protected_is_refused_by_name() -> None:
    model = random_llama()
    cases: list[tuple[RepairOperator, str]] = [
        (random_operator(layout_of(model), protect_layers=(0, 2, 5), dtype=torch.float32), r"found 2; .*\n.*found 5"),
        (random_operator(layout_of(random_gpt2()), dtype=torch.float32), "heads of the model"),
    ]
    for operator, message in cases:
        with pytest.raises(ConfigError, match=message), protecting(model, operator):
            pass
    with pytest.raises(FormError, match="family D"), protecting(model, operator_for(model, "D"), "collapsed"):
        pass
    with pytest.raises(ConfigError, match="no layer"), protecting(model, None):
        pass
    latent = DeepseekV3ForCausalLM(
        DeepseekV3Config(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=32,
            moe_intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            kv_lora_rank=8,
            q_lora_rank=None,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=16,
            n_routed_experts=2,
            n_group=1,
            topk_group=1,
            num_experts_per_tok=1,
            n_shared_experts=1,
        )
    )
    with pytest.raises(ConfigError, match="latent attention"), protecting(latent, random_operator(layout_of(model), dtype=torch.float32)):
        pass


def test_training_on_an_extended_cache_is_refused() -> None:
    model = random_llama()
    operator = operator_for(model, "D")
    cache = extend_cache(DynamicCache(config=model.config), operator)
    with pytest.raises(UsageError, match="without gradient"), protecting(model, operator):
        model(torch.tensor([[1, 2, 3]]), past_key_values=cache)


def test_starts_come_from_bool_and_additive_masks() -> None:
    mask = torch.tensor([[[[0, 0, 1, 1]]], [[[1, 1, 1, 1]]]]).bool()
    additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    assert starts_in(None) is None
    for form in (mask, additive):
        starts = starts_in(form)
        assert starts is not None and starts.tolist() == [2, 0]
