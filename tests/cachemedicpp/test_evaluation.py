"""Six defences on the same damaged caches: what a cell measures, in batches, stored and inline (specs/medic.md, 2.7, 6.2, 6.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from cachemedicpp import seeds
from cachemedicpp.evaluation.defences import Bench, Setup, prefill, stored_logits, tensors_of
from cachemedicpp.evaluation.grid import DEFENCES, REPAIR
from cachemedicpp.evaluation.outcomes import ExampleScore
from cachemedicpp.evaluation.scoring import score_batch
from cachemedicpp.faults.corruption import Corruption, DrawCounter
from cachemedicpp.faults.events import CLEAN, CORRUPTION_TYPES, Axes, Event, OperatorParams
from cachemedicpp.faults.injection import donor_cache, inject_stored, layer_state
from cachemedicpp.inputs.needle import needle_examples, needle_prompt
from cachemedicpp.inputs.tasks import NEEDLE, SST2, Example, perplexity_examples, sentiment_examples
from cachemedicpp.inputs.texts import load_reviews
from cachemedicpp.repair.heuristics import HeuristicSettings
from cachemedicpp.repair.operator import RepairOperator, layout_of
from cachemedicpp.repair.spec import OperatorSpec, TokenGateSpec
from helpers.medic_data import data_settings
from helpers.tiny_random import byte_tokenizer, random_gpt2, random_llama, random_qwen3

LAYOUTS = {"llama": random_llama, "qwen3": random_qwen3, "gpt2": random_gpt2}
TOKENIZER = byte_tokenizer()
DONOR = "A donor prompt that is long enough to fill the window."
PARAMS = OperatorParams(dropout_p=0.3, bitflip_p=0.1, quant_bits=3, overwrite_window=(4, 20), donor_prompt=DONOR)
STRONG = Event("gaussian", 0.5)
LINES = [
    "The tide came in over the flats before anyone had noticed it.",
    "Nobody spoke.",
    "Rain again, and the wind from the west all night.",
]
NEUTRAL = HeuristicSettings(smoothing_beta=0.0, dropout_p=0.0)


def setup_of(model: PreTrainedModel, **changes: Any) -> Setup:
    donor = donor_cache(model, TOKENIZER, DONOR, (0, 1))
    axes = changes.pop("axes", Axes(head_mode="bernoulli", p_head=0.5, time_mode="old_only", N_recent=4))
    return Setup(Corruption(7, (0, 1), axes, PARAMS, "scaled", donor), **changes)


def operator_of(model: PreTrainedModel, family: str = "A", trained: bool = True, **options: Any) -> RepairOperator:
    spec = OperatorSpec.from_mapping({"family": family, "rank": 4, "protect_layers": [0, 1], "alpha_max": 0.9, **options})
    operator = RepairOperator(spec, layout_of(model), 3).eval()
    if trained:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in operator.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return operator


def lines(count: int = 9) -> list[Example]:
    return perplexity_examples(TOKENIZER, LINES, count, 96)


def close(one: Sequence[ExampleScore], other: Sequence[ExampleScore]) -> bool:
    assert [score.index for score in one] == [score.index for score in other]
    return all(abs(a.loss - b.loss) < 1e-3 for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_batch_of_unequal_lines_scores_each_line_as_it_would_be_alone(make: Callable[..., PreTrainedModel]) -> None:
    model, examples = make(), lines()
    operator = operator_of(model)
    for event in (CLEAN, STRONG, Event("contiguous_overwrite", 0.16)):
        together = Bench(model, operator, setup_of(model, batch=8), examples).measure(event)
        alone = Bench(model, operator, setup_of(model, batch=1), examples).measure(event)
        for one, other in zip(together, alone, strict=True):
            assert close(one.scores, other.scores), (event, one.defence)


@pytest.mark.parametrize("kind", CORRUPTION_TYPES)
def test_every_defence_starts_from_the_same_damaged_tensors(kind: str) -> None:
    model, event = random_llama(), Event(kind, 0.16)
    bench = Bench(model, operator_of(model), setup_of(model), lines())
    state = bench.prefilled(0)
    clean = [tensor.clone() for tensor in tensors_of(state.cache)]
    damaged = bench.damaged(state, event)
    expected = [tensor.clone() for tensor in tensors_of(damaged.cache)]
    assert any(not torch.equal(a, b) for a, b in zip(clean, expected, strict=True))
    for name in DEFENCES:
        start = bench.defended(state, damaged, event, name)
        score_batch(state.examples, stored_logits(model, state, start))
        assert all(torch.equal(a, b) for a, b in zip(expected, tensors_of(damaged.cache), strict=True)), name
        if name in ("no_defense", REPAIR):
            assert all(torch.equal(a, b) for a, b in zip(expected, tensors_of(start), strict=True)), name
    assert all(torch.equal(a, b) for a, b in zip(clean, tensors_of(state.cache), strict=True))


@pytest.mark.parametrize("kind", CORRUPTION_TYPES)
@pytest.mark.parametrize("inline", [False, True], ids=["stored", "inline"])
def test_defences_that_do_nothing_score_the_same_on_the_same_damage(kind: str, inline: bool) -> None:
    model = random_llama()
    setup = setup_of(model, heuristics=NEUTRAL, inline=inline)
    found = {x.defence: x for x in Bench(model, operator_of(model, trained=False), setup, lines(4)).measure(Event(kind, 0.16))}
    for name in ("smoothing", "masking_dropout", REPAIR):
        assert close(found[name].scores, found["no_defense"].scores), name
    assert not close(found["reset_clear"].scores, found["no_defense"].scores)


def test_draws_depend_on_task_type_and_example_and_on_nothing_else() -> None:
    model, examples = random_llama(), lines()
    bench = Bench(model, operator_of(model), setup_of(model), examples)
    whole = {x.defence: x.scores for x in bench.measure(STRONG)}
    later = Bench(model, operator_of(model), setup_of(model), examples)
    later.measure(Event("dropout_zero", 0.16), [REPAIR])  # other order, other set of defences
    again = {x.defence: x.scores for x in later.measure(STRONG, ["masking_dropout", "no_defense"])}
    assert all(again[name] == whole[name] for name in again)
    state = prefill(model, bench.batches[0])
    counter = DrawCounter(seeds.EVAL, seeds.unit_number(examples[0].task, "gaussian"), tuple(x.index for x in state.examples))
    inject_stored(state.cache, bench.setup.corruption, STRONG, counter, state.starts)
    own = bench.damaged(bench.prefilled(0), STRONG)
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(state.cache), tensors_of(own.cache), strict=True))


@pytest.mark.parametrize("inline", [False, True], ids=["stored", "inline"])
def test_heuristics_act_in_clean_cells_unless_they_are_told_where_the_damage_is(inline: bool) -> None:
    model = random_llama()
    region, oracle = (
        {x.defence: x.scores for x in Bench(model, operator_of(model), setup_of(model, mask=mask, inline=inline), lines(3)).measure(CLEAN)}
        for mask in ("region", "oracle")
    )
    for name in ("reset_clear", "smoothing", "clipping_renorm"):
        assert not close(region[name], region["no_defense"]), name
        assert close(oracle[name], oracle["no_defense"]), name


@pytest.mark.parametrize("options", [{}, {"token_gate": {"checksum": True, "neighbour": True}}], ids=["plain", "checksum"])
def test_the_token_gated_family_is_served_from_the_extended_cache(options: dict[str, Any]) -> None:
    model, examples = random_llama(), lines()
    if options:
        options = {"token_gate": TokenGateSpec(**options["token_gate"])}
    operator = operator_of(model, "D", **options)
    assert Bench(model, operator, setup_of(model), examples).form == "extended"
    served = Bench(model, operator, setup_of(model), examples).measure(STRONG, [REPAIR])[0]
    reference = Bench(model, operator, setup_of(model, form="materialised"), examples).measure(STRONG, [REPAIR])[0]
    assert close(served.scores, reference.scores)


def test_folded_forms_agree_and_a_trained_repair_changes_scores() -> None:
    model, operator = random_llama(), operator_of(random_llama())
    forms = [Bench(model, operator, setup_of(model, form=form), lines()).measure(STRONG, [REPAIR])[0] for form in ("collapsed", "extended")]
    assert close(forms[0].scores, forms[1].scores)
    plain = Bench(model, operator, setup_of(model), lines()).measure(STRONG, ["no_defense"])[0]
    assert not close(plain.scores, forms[0].scores)


def test_choices_count_tokens_and_keep_their_order() -> None:
    model = random_llama()
    examples = sentiment_examples(TOKENIZER, load_reviews(data_settings(), "test", limit=10).items, 10, 160)
    found = Bench(model, operator_of(model), setup_of(model), examples).measure(CLEAN, ["no_defense"])[0]
    assert [score.index for score in found.scores] == list(range(10)) and found.scores[0].task == SST2
    assert found.tokens == 10 * len(" negative positive") and found.seconds > 0 and found.gpu_mem_gb is None


def test_the_needle_stands_in_the_damaged_old_part_of_the_scored_window() -> None:
    model, settings = random_llama(), data_settings().long_context
    examples = needle_examples(TOKENIZER, settings, 9, 192)
    axes = Axes(time_mode="window", window=(0, 2), N_recent=8)
    bench = Bench(model, operator_of(model), setup_of(model, axes=axes), examples)
    assert bench.task == NEEDLE and bench.setup.corruption.axes.time_mode == "old_only"
    by_index = {example.index: example for example in examples}
    for number in range(len(bench.batches)):
        state = bench.prefilled(number)
        for example in state.examples:
            assert example.length <= 193 and "NEEDLE: the_key" in TOKENIZER.decode(by_index[example.index].prefix)
        struck = bench.damaged(state, STRONG).struck[0]
        assert struck.mask is not None
        for row, example in enumerate(state.examples):
            assert int(struck.mask[row, 0].sum()) == len(example.prefix) - 8
    assert needle_prompt(TOKENIZER, settings, 0, settings.needle_value, 192).needle in TOKENIZER.decode(
        needle_examples(TOKENIZER, settings, 1, 192, values="fixed")[0].prefix
    )


def test_reproduction_runs_one_example_at_a_time() -> None:
    model = random_llama()
    assert {len(batch) for batch in Bench(model, operator_of(model), setup_of(model, inline=True), lines()).batches} == {1}
    last = operator_of(model, gate_rows="last")
    assert {len(batch) for batch in Bench(model, last, setup_of(model), lines()).batches} == {1}


def test_a_reason_to_stop_is_asked_for_before_every_batch_of_every_defence() -> None:
    model, asked = random_llama(), []
    bench = Bench(model, operator_of(model), setup_of(model, batch=4), lines(8))
    bench.measure(CLEAN, ["no_defense", REPAIR], between=lambda: asked.append(1))
    assert len(asked) == 4
    key, _ = layer_state(bench.prefilled(0).cache, 0)
    assert key.shape[0] == 4 and math.isfinite(float(key.sum()))
