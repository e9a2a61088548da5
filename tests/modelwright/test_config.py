"""Layers win in order, every leaf knows its origin, and all faults come at once with the nearest valid name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, model_validator

from modelwright.config import Layer, nearest, override_layer, parse_override, resolve
from modelwright.config_fields import allowed_values, known_paths
from modelwright.errors import ConfigError


class Scaling(BaseModel):
    strategy: Literal["lora", "qlora", "prefix_tuning"] = "lora"
    lora_rank: int | None = Field(None, ge=1, le=512)
    learning_rate: float = Field(2e-5, gt=0)
    context_schedule: list[int] = Field(default_factory=list)


class Probe(BaseModel):
    name: str
    samples: int = 10


class Job(BaseModel):
    base_model: str
    seed: int = 42
    offline: bool = False
    output_dir: Path = Path("runs/x")
    scaling: Scaling = Field(default_factory=Scaling)
    probes: list[Probe] = Field(default_factory=list)
    labels: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def rank_needs_lora(self) -> Job:
        if self.scaling.strategy == "prefix_tuning" and self.scaling.lora_rank:
            raise ValueError("no lora_rank with strategy prefix_tuning")
        return self


def faults(layers: list[Layer], overrides: list[str] | None = None) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        resolve(Job, layers, overrides or [])
    assert str(caught.value).count("\n") == len(caught.value.faults) - 1
    return {fault.path: fault.sentence() for fault in caught.value.faults}


def test_later_layers_win_and_every_leaf_has_an_origin() -> None:
    template = Layer("template", {"scaling": {"lora_rank": 16, "strategy": "qlora"}})
    job = Layer("job", {"base_model": "m", "scaling": {"lora_rank": 8, "context_schedule": [512, 1024]}})
    flag = Layer("flag", {"scaling": {"lora_rank": 4}})
    resolved = resolve(Job, [template, job, flag])
    assert resolved.value.scaling == Scaling(strategy="qlora", lora_rank=4, context_schedule=[512, 1024])
    assert resolved.origins == {
        "base_model": "job",
        "seed": "default",
        "offline": "default",
        "output_dir": "default",
        "scaling.strategy": "template",
        "scaling.lora_rank": "flag",
        "scaling.learning_rate": "default",
        "scaling.context_schedule": "job",
        "probes": "default",
        "labels": "default",
    }


def test_overrides_lie_where_the_caller_puts_them() -> None:
    base = Layer("job", {"base_model": "m"})
    over = override_layer(["seed=1", "scaling.lora_rank=16"])
    resolved = resolve(Job, [base, over, Layer("flag", {"seed": 2})])
    assert (resolved.value.seed, resolved.origins["seed"]) == (2, "flag")
    assert (resolved.value.scaling.lora_rank, resolved.origins["scaling.lora_rank"]) == (16, "override")
    assert resolve(Job, [base, Layer("flag", {"seed": 2})], ["seed=3"]).value.seed == 3


def test_five_faults_are_reported_as_five() -> None:
    found = faults(
        [
            Layer("template", {"scaling": {"stratgy": "lora", "lora_rank": 1000}}),
            Layer("job", {"sead": 3, "offline": "perhaps", "seed": True}),
        ]
    )
    # base_model is missing as well: six sentences for six mistakes
    assert set(found) == {"scaling.stratgy", "scaling.lora_rank", "sead", "offline", "seed", "base_model"}
    assert "did you mean scaling.strategy?" in found["scaling.stratgy"]
    assert "(from template)" in found["scaling.stratgy"]
    assert "1000" in found["scaling.lora_rank"] and "at least 1" in found["scaling.lora_rank"]
    assert "at most 512" in found["scaling.lora_rank"] and "null" in found["scaling.lora_rank"]
    assert "did you mean seed?" in found["sead"]
    assert "'perhaps' (from job)" in found["offline"] and "true or false" in found["offline"]
    assert "found true" in found["seed"] and "a whole number" in found["seed"]
    assert "found nothing" in found["base_model"] and "text" in found["base_model"]


def test_choices_and_places_are_named() -> None:
    found = faults([Layer("job", {"base_model": "m", "scaling": {"strategy": "qlroa"}, "lora_rank": 4})])
    assert "lora, qlora, prefix_tuning" in found["scaling.strategy"]
    assert "did you mean scaling.lora_rank?" in found["lora_rank"]


def test_faults_inside_lists_and_wrong_containers() -> None:
    found = faults([Layer("job", {"base_model": "m", "probes": [{"name": "p", "sampels": 3}, {"samples": "x"}], "scaling": 5})])
    assert set(found) == {"probes.0.sampels", "probes.1.name", "probes.1.samples", "scaling"}
    assert "a mapping with strategy" in found["scaling"]


class Places(BaseModel):
    lengths: list[Annotated[int, Field(gt=0)]] | None = None
    steps: dict[int, Scaling] = Field(default_factory=dict)
    count: int | None = Field(default=None, ge=1)


def places(**values: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        resolve(Places, [Layer("job", values)])
    return {fault.path: fault.sentence() for fault in caught.value.faults}


def test_places_inside_lists_and_mappings_are_told_in_our_own_words() -> None:
    assert places(lengths=[4096, "foo", -1]) == {
        "lengths.1": "lengths.1: found 'foo' (from job); allowed: a whole number above 0.",
        "lengths.2": "lengths.2: found -1 (from job); allowed: a whole number above 0.",
    }
    assert places(lengths={"a": 1}) == {
        "lengths": 'lengths: found a mapping {"a": 1} (from job); allowed: a list of whole numbers above 0, or null.'
    }
    assert places(steps={"many": {}}) == {"steps": "steps: found the key 'many' (from job); allowed: a whole number as key."}
    assert places(steps={1: {"lora_rank": [4]}})["steps.1.lora_rank"].startswith("steps.1.lora_rank: found a list [4] (from job); allowed")
    assert places(count=0) == {"count": "count: found 0 (from job); allowed: a whole number at least 1, or null."}
    assert places(steps=None)["steps"].startswith("steps: found null (from job); allowed: a mapping")


def test_a_rule_of_the_model_is_a_fault_too() -> None:
    found = faults([Layer("job", {"base_model": "m", "scaling": {"strategy": "prefix_tuning", "lora_rank": 4}})])
    assert list(found) == ["(whole configuration)"]
    assert "no lora_rank with strategy prefix_tuning" in found["(whole configuration)"]


def test_free_mappings_take_any_key_with_its_origin() -> None:
    resolved = resolve(Job, [Layer("job", {"base_model": "m", "labels": {"a": "1"}})], ["labels.b=x"])
    assert resolved.value.labels == {"a": "1", "b": "x"}
    assert (resolved.origins["labels.a"], resolved.origins["labels.b"]) == ("job", "override")


def test_a_number_written_as_2e_5_is_a_number() -> None:
    assert resolve(Job, [Layer("job", {"base_model": "m"})], ["scaling.learning_rate=2e-5"]).value.scaling.learning_rate == 2e-5


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("a=3", ("a",), 3),
        ("a.b=true", ("a", "b"), True),
        ("a.b=[1, 2]", ("a", "b"), [1, 2]),
        ("a=null", ("a",), None),
        ("a=", ("a",), ""),
        ("a=x=y", ("a",), "x=y"),
    ],
)
def test_override_values_are_yaml(text: str, path: tuple[str, ...], value: Any) -> None:
    assert parse_override(text) == (path, value)


@pytest.mark.parametrize("text", ["a", "=3", "a..b=3", "a=[1", ""])
def test_a_malformed_override_says_what_one_looks_like(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed:"):
        parse_override(text)


def test_malformed_overrides_are_reported_with_the_other_faults() -> None:
    assert len(faults([Layer("job", {"base_model": 3})], ["x", "seed=[", "nothing.here=1"])) == 4


def test_the_digest_follows_the_values_and_can_leave_paths_out() -> None:
    one, two = (resolve(Job, [Layer("job", {"base_model": "m", "output_dir": where})]) for where in ("a", "b"))
    assert one.digest() != two.digest()
    assert one.digest(exclude=["output_dir"]) == two.digest(exclude=["output_dir", "no.such.path"])
    assert len(one.digest()) == 64


def test_words_for_what_is_allowed() -> None:
    paths = known_paths(Job)
    assert allowed_values(paths["scaling.strategy"]) == "lora, qlora, prefix_tuning"
    assert allowed_values(paths["scaling.learning_rate"]) == "a number above 0"
    assert allowed_values(paths["scaling.context_schedule"]) == "a list of whole numbers"
    assert "probes.name" not in paths


leaves = st.one_of(st.integers(1, 512), st.none())


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), leaves), min_size=1, max_size=6))
def test_the_last_layer_that_sets_a_value_is_its_origin(settings: list[tuple[str, int | None]]) -> None:
    layers = [Layer("start", {"base_model": "m"})]
    layers += [Layer(f"{name}{number}", {"scaling": {"lora_rank": value}}) for number, (name, value) in enumerate(settings)]
    resolved = resolve(Job, layers)
    assert resolved.value.scaling.lora_rank == settings[-1][1]
    assert resolved.origins["scaling.lora_rank"] == layers[-1].name


@given(st.dictionaries(st.text("abcdefgh", min_size=3, max_size=8), st.integers(), min_size=1, max_size=5))
def test_every_unknown_key_gives_exactly_one_fault(unknown: dict[str, int]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(Job, [Layer("job", {"base_model": "m", **unknown})])
    assert sorted(fault.path for fault in caught.value.faults) == sorted(unknown)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*Job.model_fields, "other"]), json_values))
def test_any_document_resolves_or_is_refused_in_sentences(values: dict[str, Any]) -> None:
    refused: ConfigError | None = None
    try:
        resolved = resolve(Job, [Layer("job", values)])
    except ConfigError as error:
        refused = error
    if refused is not None:
        assert refused.faults and all(fault.found and fault.allowed for fault in refused.faults)
    else:
        assert set(resolved.origins.values()) <= {"job", "default"}
        assert resolved.digest() == resolve(Job, [Layer("again", resolved.as_dict())]).digest()


@given(st.sampled_from(sorted(Scaling.model_fields)), st.data())
def test_one_wrong_letter_finds_the_right_name(name: str, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(name) - 1))
    wrong = name[:position] + "z" + name[position + 1 :]
    assert nearest(wrong, Scaling.model_fields) == name
