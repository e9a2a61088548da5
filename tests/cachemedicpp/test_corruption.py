"""Corrupting one layer: masks, counters, batching, severity (acceptance 1, 2, 3, 5, 6, 7, 36)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachemedicpp import seeds
from cachemedicpp.faults.corruption import Corrupted, Corruption, DonorCache, DrawCounter, corrupt, event_record
from cachemedicpp.faults.events import CLEAN, CORRUPTION_TYPES, Axes, Event, OperatorParams
from modelwright.errors import ConfigError, UsageError

LAYER, HEADS, SIZE = 5, 4, 16
STRONG = OperatorParams(dropout_p=0.3, bitflip_p=0.2, quant_bits=3, overwrite_window=(4, 20))
EVERY_TYPE = pytest.mark.parametrize("kind", CORRUPTION_TYPES)


def tensors(batch: int, length: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    key, value = (torch.randn(batch, HEADS, length, SIZE, generator=generator).to(dtype) for _ in range(2))
    return key, value


def donor(length: int = 40) -> DonorCache:
    key, value = tensors(1, length, seed=99)
    return DonorCache("donor", length, {LAYER: (key[0], value[0])})


def settings_of(**changes: object) -> Corruption:
    return replace(Corruption(7, (LAYER,), Axes(), STRONG, donor=donor()), **changes)


def counter(*examples: int, unit: int = 3) -> DrawCounter:
    return DrawCounter(seeds.EVAL, unit, examples)


@EVERY_TYPE
@pytest.mark.parametrize("severity", ["fixed", "scaled"])
def test_epsilon_zero_returns_the_very_tensors(kind: str, severity: str) -> None:
    key, value = tensors(2, 30)
    result = corrupt(settings_of(severity=severity), Event(kind, 0.0), counter(0, 1), LAYER, key, value)
    assert result.key is key and result.value is value and result.mask is None


def test_clean_events_and_unprotected_layers_return_the_very_tensors() -> None:
    key, value = tensors(1, 30)
    for event, layer in ((CLEAN, LAYER), (Event("gaussian", 0.1), LAYER + 1)):
        result = corrupt(settings_of(), event, counter(0), layer, key, value)
        assert result.key is key and result.value is value and result.heads == (0,)


@EVERY_TYPE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_equal_seed_gives_bit_identical_tensors_in_any_call_order(kind: str, dtype: torch.dtype) -> None:
    key, value = tensors(2, 30, dtype=dtype)
    before = key.clone()
    first = corrupt(settings_of(), Event(kind, 0.08), counter(4, 9), LAYER, key, value)
    corrupt(settings_of(), Event("gaussian", 0.16), counter(1, 2), LAYER, key, value)
    torch.randn(5)
    again = corrupt(settings_of(), Event(kind, 0.08), counter(4, 9), LAYER, key, value)
    assert torch.equal(first.key, again.key) and torch.equal(first.value, again.value)
    assert first.key.dtype == dtype and torch.equal(key, before)
    assert not torch.equal(first.key, key) and not torch.equal(first.value, value)


@pytest.mark.parametrize("change", ["seed", "phase", "unit", "example", "layer"])
def test_every_part_of_the_counter_changes_the_draws(change: str) -> None:
    key, value = tensors(1, 30)
    base = settings_of(protected=(LAYER, LAYER + 1))
    other = replace(base, seed=8) if change == "seed" else base
    where = {"phase": DrawCounter(seeds.TRAIN, 3, (0,)), "unit": counter(0, unit=4), "example": counter(1)}.get(change, counter(0))
    first = corrupt(base, Event("gaussian", 0.1), counter(0), LAYER, key, value)
    second = corrupt(other, Event("gaussian", 0.1), where, LAYER + (change == "layer"), key, value)
    assert not torch.equal(first.key, second.key)


@st.composite
def any_axes(draw: st.DrawFn) -> Axes:
    numbers = st.lists(st.integers(0, 7), max_size=4).map(tuple)
    return Axes(
        layer_mode=draw(st.sampled_from(["all", "bernoulli", "targeted"])),
        p_layer=0.7,
        layers=draw(numbers),
        head_mode=draw(st.sampled_from(["all", "bernoulli", "targeted"])),
        p_head=0.5,
        heads=draw(numbers),
        time_mode=draw(st.sampled_from(["all_past", "old_only", "window"])),
        N_recent=draw(st.integers(0, 40)),
        window=draw(st.tuples(st.integers(0, 30), st.integers(0, 30))),
    )


@settings(deadline=None)
@given(st.sampled_from(CORRUPTION_TYPES), any_axes(), st.lists(st.integers(0, 25), min_size=1, max_size=3), st.integers(0, 50))
def test_nothing_outside_the_masks_or_in_the_padding_is_touched(kind: str, axes: Axes, starts: list[int], unit: int) -> None:
    key, value = tensors(len(starts), 26)
    where = counter(*range(len(starts)), unit=unit)
    result = corrupt(settings_of(axes=axes), Event(kind, 0.16), where, LAYER, key, value, torch.tensor(starts))
    mask = torch.zeros(len(starts), HEADS, 26, dtype=torch.bool) if result.mask is None else result.mask
    for before, after in ((key, result.key), (value, result.value)):
        assert torch.equal(after[~mask], before[~mask])
    for row, start in enumerate(starts):
        assert not mask[row, :, :start].any()
        old = 26 - start - axes.N_recent
        if axes.time_mode == "old_only":
            assert not mask[row, :, max(start, start + old) :].any()
        if axes.head_mode == "targeted":
            assert not mask[row, [head for head in range(HEADS) if head not in (axes.heads or ())]].any()
        assert int(mask[row].sum()) == result.heads[row] * result.steps[row]
    if axes.layer_mode == "targeted" and LAYER not in (axes.layers or ()):
        assert result.key is key


@EVERY_TYPE
@pytest.mark.parametrize("time_mode", ["all_past", "old_only", "window"])
def test_a_left_padded_row_equals_its_single_run(kind: str, time_mode: str) -> None:
    axes = Axes(head_mode="bernoulli", p_head=0.5, time_mode=time_mode, N_recent=6, window=(3, 11))  # type: ignore[arg-type]
    lengths, total = (30, 21, 9), 30
    key, value = tensors(3, total)
    key[1, :, :9] = 1e4  # padding must count for nothing
    starts = torch.tensor([total - length for length in lengths])
    event = Event(kind, 0.08)
    batch = corrupt(settings_of(axes=axes), event, counter(5, 6, 7), LAYER, key, value, starts)
    for row, length in enumerate(lengths):
        own_key, own_value = key[row : row + 1, :, total - length :], value[row : row + 1, :, total - length :]
        single = corrupt(settings_of(axes=axes), event, counter(5 + row), LAYER, own_key, own_value)
        assert torch.equal(batch.key[row, :, total - length :], single.key[0])
        assert torch.equal(batch.value[row, :, total - length :], single.value[0])
        assert (batch.heads[row], batch.steps[row]) == (single.heads[0], single.steps[0])


@EVERY_TYPE
def test_order_and_company_of_a_row_do_not_matter(kind: str) -> None:
    key, value = tensors(3, 24)
    forward = corrupt(settings_of(), Event(kind, 0.1), counter(1, 2, 3), LAYER, key, value)
    backward = corrupt(settings_of(), Event(kind, 0.1), counter(3, 2, 1), LAYER, key.flip(0), value.flip(0))
    assert torch.equal(forward.key, backward.key.flip(0)) and torch.equal(forward.value, backward.value.flip(0))


def test_dropout_is_shared_by_keys_and_values_and_other_draws_are_not() -> None:
    key, value = tensors(1, 30)
    result = corrupt(settings_of(), Event("dropout_zero", 0.16), counter(0), LAYER, key, value)
    assert torch.equal(result.key == 0, result.value == 0)
    assert float((result.key == 0).float().mean()) == pytest.approx(0.3, abs=0.03)
    noisy = corrupt(settings_of(), Event("gaussian", 0.16), counter(0), LAYER, key, key.clone())
    assert not torch.equal(noisy.key, noisy.value)


def test_bitflips_have_the_right_rate_and_halves() -> None:
    key, value = tensors(4, 60)
    result = corrupt(settings_of(severity="fixed"), Event("bitflipish_sparse", 0.01), counter(0, 1, 2, 3), LAYER, key, value)
    for before, after in ((key, result.key), (value, result.value)):
        struck, negated = before != after, after == -before
        assert float(struck.float().mean()) == pytest.approx(0.2, abs=0.02)
        assert float(negated.sum() / struck.sum()) == pytest.approx(0.5, abs=0.05)
        jump = (after - before)[struck & ~negated].abs()
        assert torch.allclose(jump, 8 * before.abs().clamp_min(1e-3)[struck & ~negated], rtol=1e-4)


def test_eight_bit_noise_stays_within_half_a_step_of_its_head() -> None:
    key, value = tensors(2, 40)
    params = replace(STRONG, quant_bits=8)
    result = corrupt(settings_of(params=params), Event("quant_noise", 0.16), counter(0, 1), LAYER, key, value)
    for before, after in ((key, result.key), (value, result.value)):
        scale = (before.abs().amax(dim=(-2, -1), keepdim=True) + 1e-8) / 127
        assert ((after - before).abs() <= scale / 2 * (1 + 1e-4)).all()


@pytest.mark.parametrize(("length", "changed"), [(48, 0), (49, 1)])
@pytest.mark.parametrize("padding", [0, 5])
def test_canonical_overwrite_waits_for_the_forty_ninth_token(length: int, changed: int, padding: int) -> None:
    axes = Axes(time_mode="old_only", N_recent=32)
    corruption = settings_of(axes=axes, params=OperatorParams(), severity="fixed")
    key, value = tensors(1, length + padding)
    result = corrupt(corruption, Event("contiguous_overwrite", 0.16), counter(0), LAYER, key, value, torch.tensor([padding]))
    steps = (result.key != key).any(dim=-1).any(dim=1)[0].nonzero().flatten()
    assert steps.tolist() == [padding + 16] * changed
    if changed:
        assert torch.equal(result.key[0, :, padding + 16], corruption.donor.layers[LAYER][0][:, 0])


def test_axes_window_wins_over_the_overwrite_window() -> None:
    key, value = tensors(1, 40)
    corruption = settings_of(axes=Axes(time_mode="window", window=(30, 35)))
    result = corrupt(corruption, Event("contiguous_overwrite", 0.16), counter(0), LAYER, key, value)
    assert (result.value != value).any(dim=-1).any(dim=1)[0].nonzero().flatten().tolist() == list(range(30, 35))
    assert torch.equal(result.value[0, :, 30:35], corruption.donor.layers[LAYER][1][:, :5])


def test_a_short_donor_ends_the_overwrite() -> None:
    key, value = tensors(1, 40)
    result = corrupt(settings_of(donor=donor(3)), Event("contiguous_overwrite", 0.16), counter(0), LAYER, key, value)
    assert (result.key != key).any(dim=-1).any(dim=1)[0].nonzero().flatten().tolist() == [4, 5, 6]


@EVERY_TYPE
def test_scaled_severity_never_harms_less_at_a_larger_epsilon(kind: str) -> None:
    axes = Axes(head_mode="bernoulli", p_head=0.5, time_mode="old_only", N_recent=4)
    key, value = tensors(8, 32)
    norms = []
    for epsilon in (0.0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.12, 0.16):
        result = corrupt(settings_of(axes=axes), Event(kind, epsilon), counter(*range(8)), LAYER, key, value)
        norms.append(float((result.key - key).norm() + (result.value - value).norm()))
    assert norms[0] == 0 < norms[-1]
    assert norms == sorted(norms)
    assert len(set(norms)) >= 5  # a curve, not a step


@EVERY_TYPE
def test_fixed_severity_is_scaled_severity_at_the_reference(kind: str) -> None:
    key, value = tensors(1, 30)
    fixed, scaled = (corrupt(settings_of(severity=s), Event(kind, 0.16), counter(0), LAYER, key, value) for s in ("fixed", "scaled"))
    assert torch.equal(fixed.key, scaled.key) and torch.equal(fixed.value, scaled.value)
    if kind != "gaussian":
        weak = corrupt(settings_of(severity="fixed"), Event(kind, 0.01), counter(0), LAYER, key, value)
        assert torch.equal(fixed.key, weak.key)


def test_targeted_runs_its_base_type_on_the_listed_heads() -> None:
    key, value = tensors(1, 30)
    corruption = settings_of(axes=Axes(heads=(1, 9)), params=replace(STRONG, targeted_base_type="quant_noise"))
    result = corrupt(corruption, Event("targeted", 0.16), counter(0), LAYER, key, value)
    base = corrupt(settings_of(), Event("quant_noise", 0.16), counter(0), LAYER, key, value)
    assert torch.equal(result.key[:, 1], base.key[:, 1]) and result.heads == (1,)
    assert torch.equal(result.key[:, [0, 2, 3]], key[:, [0, 2, 3]])
    with pytest.raises(ConfigError, match="neither layers nor heads"):
        corrupt(settings_of(), Event("targeted", 0.16), counter(0), LAYER, key, value)


def test_values_of_another_width_than_keys() -> None:
    key, _ = tensors(2, 20)
    value = tensors(2, 20, seed=1)[1][..., :8]
    corruption = settings_of(donor=DonorCache("donor", 40, {LAYER: (key[0], value[0])}))
    for kind in CORRUPTION_TYPES:
        result = corrupt(corruption, Event(kind, 0.16), counter(3, 4), LAYER, key, value)
        assert result.key.shape == key.shape and result.value.shape == value.shape


def test_a_row_of_padding_alone_is_left_as_it_is() -> None:
    key, value = tensors(2, 20)
    for kind in CORRUPTION_TYPES:
        result = corrupt(settings_of(), Event(kind, 0.16), counter(3, 4), LAYER, key, value, torch.tensor([20, 0]))
        assert torch.equal(result.key[0], key[0]) and not torch.equal(result.key[1], key[1])
        assert torch.isfinite(result.key).all()


def test_every_defence_sees_the_same_corruption() -> None:
    defences = ("no_defense", "reset_clear", "smoothing", "masking_dropout", "clipping_renorm", "cachemedic")
    key, value = tensors(2, 40)
    for kind in CORRUPTION_TYPES:
        seen = []
        for number, _ in enumerate(defences):
            torch.randn(number)  # whatever a defence draws from elsewhere
            unit = seeds.unit_number("sst2_prompted", kind)
            seen.append(corrupt(settings_of(), Event(kind, 0.08), counter(11, 12, unit=unit), LAYER, key, value))
        assert all(torch.equal(seen[0].key, other.key) and torch.equal(seen[0].value, other.value) for other in seen)


def test_the_log_shows_mean_heads_and_steps() -> None:
    key, value = tensors(2, 40)
    corruption = settings_of(axes=Axes(head_mode="targeted", heads=(0, 2), time_mode="old_only", N_recent=10))
    result = corrupt(corruption, Event("gaussian", 0.1), counter(0, 1), LAYER, key, value, torch.tensor([0, 20]))
    assert (result.heads, result.steps) == ((2, 2), (30, 10))
    untouched = Corrupted(key, value, None, (0, 0), (0, 0))
    assert event_record(Event("gaussian", 0.1), [result, untouched]) == {
        "type": "gaussian",
        "epsilon": 0.1,
        "head_count_mean": 1.0,
        "time_count_mean": 10.0,
    }


def test_mismatches_are_refused() -> None:
    key, value = tensors(2, 20)
    event = Event("gaussian", 0.1)
    with pytest.raises(UsageError, match="2 rows and the counter 1"):
        corrupt(settings_of(), event, counter(0), LAYER, key, value)
    for starts in ([0], [0, 21]):
        with pytest.raises(UsageError, match="first real token"):
            corrupt(settings_of(), event, counter(0, 1), LAYER, key, value, torch.tensor(starts))
    with pytest.raises(UsageError, match="no donor cache"):
        corrupt(settings_of(donor=None), Event("contiguous_overwrite", 0.1), counter(0, 1), LAYER, key, value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@EVERY_TYPE
def test_a_gpu_gets_the_same_draws(kind: str) -> None:
    key, value = tensors(2, 40)
    axes = Axes(head_mode="bernoulli", p_head=0.5, time_mode="old_only", N_recent=4)
    here = corrupt(settings_of(axes=axes), Event(kind, 0.08), counter(0, 1), LAYER, key, value, torch.tensor([0, 7]))
    there = corrupt(settings_of(axes=axes), Event(kind, 0.08), counter(0, 1), LAYER, key.cuda(), value.cuda(), torch.tensor([0, 7]).cuda())
    assert torch.equal(here.mask, there.mask.cpu()) and there.key.is_cuda
    # A step on the edge of rounding may fall either way in quant_noise; everything else agrees to float32 rounding.
    close = torch.isclose(here.key, there.key.cpu(), rtol=1e-5, atol=1e-5)
    assert float(close.float().mean()) > (0.999 if kind == "quant_noise" else 1 - 1e-9)
