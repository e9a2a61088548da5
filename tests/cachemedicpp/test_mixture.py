"""The default mixture, its path, the held-out splits and the sampling of events (acceptance 35, mixture part)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachemedicpp import seeds
from cachemedicpp.config.mixture import (
    PACKAGE_FOLDER,
    Mixture,
    find_split,
    load_mixture,
    load_splits,
    mixture_path,
    only,
    operator_params,
    parse_mixture,
    sample_event,
    training_mixture,
)
from cachemedicpp.faults.events import ALL_TYPES, CORRUPTION_TYPES, Axes, Event, OperatorParams, unwrap
from modelwright.errors import ConfigError, MissingFileError
from modelwright.files import write_yaml

GRID = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16)


def test_default_mix_has_the_weights_and_numbers_of_the_specification() -> None:
    mixture = load_mixture()
    assert mixture.weights == {
        "gaussian": 0.25,
        "dropout_zero": 0.20,
        "orthogonal_rotation": 0.15,
        "bitflipish_sparse": 0.15,
        "quant_noise": 0.15,
        "contiguous_overwrite": 0.10,
    }
    assert operator_params(mixture, {}) == OperatorParams()
    assert operator_params(mixture, {"quant_bits": 4}) == OperatorParams(quant_bits=4)


def test_path_is_tried_as_given_then_below_the_roots_then_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"name": "mine", "weights": {"gaussian": 1}}
    places = {
        "project": tmp_path / "project" / "configs" / "corruption" / "mine.yaml",
        "beside": tmp_path / "study" / "corruption" / "mine.yaml",
    }
    for place in places.values():
        place.parent.mkdir(parents=True)
        write_yaml(place, document)
    assert mixture_path("mine", [tmp_path / "study", tmp_path / "project"]) == places["beside"]
    assert mixture_path("mine", [tmp_path / "project"]) == places["project"]
    assert mixture_path("configs/corruption/mine.yaml", [tmp_path / "project"]) == places["project"]
    assert mixture_path(str(places["beside"])) == places["beside"]
    assert mixture_path("default_mix", [tmp_path]) == PACKAGE_FOLDER / "default_mix.yaml"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default_mix").mkdir()  # a folder of that name is no mixture
    assert mixture_path("default_mix") == PACKAGE_FOLDER / "default_mix.yaml"
    with pytest.raises(MissingFileError, match=r"'yours' was found at none of .*default_mix"):
        mixture_path("yours", [tmp_path / "study"])


def test_a_bad_mixture_names_every_fault() -> None:
    document = {"name": "bad", "weights": {"gausian": 0.5, "dropout_zero": -1}, "default_params": {"quant_bits": 1}}
    with pytest.raises(ConfigError, match="did you mean gaussian") as caught:
        parse_mixture(document, "bad.yaml")
    assert len(caught.value.faults) == 3
    assert "bad.yaml: weights.dropout_zero: found -1" in str(caught.value)
    with pytest.raises(ConfigError, match="an unknown key"):
        parse_mixture({"name": "bad", "weights": {"gaussian": 1}, "default_params": {"dropout": 1}}, "bad.yaml")
    with pytest.raises(ConfigError, match="a mapping"):
        parse_mixture([1, 2], "bad.yaml")


@pytest.mark.parametrize("weights", [{}, {"gaussian": 0, "quant_noise": 0}])
def test_a_table_without_weight_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="at least one type with a weight above 0"):
        parse_mixture({"name": "empty", "weights": weights}, "empty.yaml")
    with pytest.raises(ConfigError):
        sample_event(Mixture("empty", weights, {}), GRID, seeds.generator(1, seeds.EVENT))


def test_an_empty_filtered_set_or_grid_is_refused() -> None:
    with pytest.raises(ConfigError, match="keep at least one type"):
        only(load_mixture(), [])
    with pytest.raises(ConfigError, match="targeted"):
        only(load_mixture(), ["targeted"])
    with pytest.raises(ConfigError, match="eps_grid"):
        sample_event(load_mixture(), (), seeds.generator(1, seeds.EVENT))


def test_six_splits_each_hold_one_type_out() -> None:
    splits = load_splits()
    assert sorted(splits) == sorted(f"loto_holdout_{kind}" for kind in CORRUPTION_TYPES)
    for split in splits.values():
        assert set(split.train_types) | {split.test_type} == set(CORRUPTION_TYPES)
        assert split.name == f"loto_holdout_{split.test_type}" and len(split.train_types) == 5


def test_an_unknown_split_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean loto_holdout_gaussian"):
        find_split("loto_holdout_gausian")


def test_own_splits_file_is_checked(tmp_path: Path) -> None:
    bad = {"splits": [{"name": "mine", "train_types": ["gaussian", "noise"], "test_type": "gaussian"}]}
    write_yaml(tmp_path / "splits.yaml", bad)
    with pytest.raises(ConfigError) as caught:
        load_splits(tmp_path / "splits.yaml")
    assert len(caught.value.faults) == 2


@pytest.mark.parametrize("kind", CORRUPTION_TYPES)
def test_held_out_type_is_never_drawn_and_the_rest_sums_to_one(kind: str) -> None:
    mixture = training_mixture(load_mixture(), find_split(f"loto_holdout_{kind}"))
    assert mixture.name == f"ood_train_mix_loto_holdout_{kind}"
    assert sum(mixture.weights.values()) == pytest.approx(1) and len(mixture.weights) == 5
    drawn = {sample_event(mixture, GRID, seeds.generator(3, seeds.EVENT, seeds.TRAIN, step)).type for step in range(300)}
    assert drawn == set(CORRUPTION_TYPES) - {kind}
    assert parse_mixture(mixture.as_dict(), "written") == mixture


def test_events_are_drawn_in_proportion() -> None:
    mixture = load_mixture()
    events = [sample_event(mixture, GRID, seeds.generator(1, seeds.EVENT, seeds.TRAIN, step)) for step in range(4000)]
    types, sizes = Counter(event.type for event in events), Counter(event.epsilon for event in events)
    for kind, weight in mixture.weights.items():
        assert types[kind] / 4000 == pytest.approx(weight, abs=0.03)
    for size in GRID:
        assert sizes[size] / 4000 == pytest.approx(1 / 6, abs=0.03)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(ALL_TYPES), st.floats(0, 5), min_size=1), st.integers(0, 1000))
def test_a_type_without_weight_is_never_drawn(weights: dict[str, float], step: int) -> None:
    mixture = Mixture("any", weights, {})
    if sum(weights.values()) <= 0:
        return
    event = sample_event(mixture, GRID, seeds.generator(1, seeds.EVENT, step))
    assert weights[event.type] > 0 and event.epsilon in GRID


def test_targeted_takes_its_base_type_and_forces_the_lists_it_has() -> None:
    event = Event("targeted", 0.1)
    params = OperatorParams(targeted_base_type="quant_noise")
    base, axes = unwrap(event, Axes(layers=(3,), head_mode="bernoulli", p_head=0.5), params)
    assert base == Event("quant_noise", 0.1) and axes.layer_mode == "targeted" and axes.head_mode == "bernoulli"
    assert unwrap(event, Axes(heads=(0,)), OperatorParams())[0].type == "gaussian"
    assert unwrap(event, Axes(heads=(0,)), OperatorParams())[1].head_mode == "targeted"
    with pytest.raises(ConfigError, match="neither layers nor heads"):
        unwrap(event, Axes(), params)


def test_wrong_events_axes_and_numbers_name_every_fault() -> None:
    with pytest.raises(ConfigError) as caught:
        Event("gausian", float("nan"))
    assert len(caught.value.faults) == 2
    with pytest.raises(ConfigError) as caught:
        Axes(layer_mode="some", head_mode="targeted", time_mode="window", p_head=1.5, N_recent=-1)  # type: ignore[arg-type]
    assert len(caught.value.faults) == 5
    with pytest.raises(ConfigError) as caught:
        OperatorParams(dropout_p=2, quant_bits=1, overwrite_window=(-1, 3), targeted_base_type="targeted")
    assert len(caught.value.faults) == 4
