"""Run configurations: defaults, faults all at once, rules between keys, and the hash that names a configuration."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cachemedicpp.config import sections as config_sections
from cachemedicpp.config.mixture import SPLITS_FILE
from cachemedicpp.config.rules import check_against_model, config_warnings, text_slot
from cachemedicpp.config.sections import RunConfig
from cachemedicpp.config.settings import (
    DEFAULT_PRESETS,
    check_same_config,
    config_hash,
    evaluated_types,
    hashed_document,
    is_counterpart,
    load_run_config,
    mixture_of,
    resolved_document,
    run_config_from,
    training_mixture_of,
)
from cachemedicpp.faults.events import ALL_TYPES, CORRUPTION_TYPES, Axes, OperatorParams
from cachemedicpp.repair.spec import OperatorSpec
from modelwright.errors import ConfigError
from modelwright.files import sha256_bytes, write_yaml
from modelwright.model_shape import ModelShape

MVE = yaml.safe_load(DEFAULT_PRESETS[0].read_text(encoding="utf-8"))
GPT2_MEDIUM = ModelShape(
    model_type="gpt2", layers=24, hidden=1024, feed_forward=4096, vocabulary=50257, heads=16, kv_heads=16, head_dim=64, context=1024,
    tied=True,
)  # fmt: skip
NEW_KEYS = {
    "repair.gate_rows": "per_query",
    "repair.form": "collapsed",
    "corruption.severity": "scaled",
    "corruption.inject": "stored",
    "corruption.params.targeted_base_type": "gaussian",
    "train.lambda_w": 0.0,
    "train.tail_len": 1,
    "eval.heuristic_mask": "region",
    "eval.batch_size": 16,
    "eval.sst2_wording": "auto",
    "eval.needle_values": None,
    "repair.base": None,
}


def config(**overrides: Any) -> RunConfig:
    """The minimum viable experiment with overrides, `__` for a dot."""
    return run_config_from(MVE, ".", {key.replace("__", "."): value for key, value in overrides.items()})


def faults(document: dict[str, Any] | None = None, **overrides: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        run_config_from(document or MVE, ".", {key.replace("__", "."): value for key, value in overrides.items()}, source="mve.yaml")
    assert caught.value.exit_code == 2
    return {fault.path: fault.sentence() for fault in caught.value.faults}


# ---------------------------------------------------------------------- defaults


def test_absent_optional_keys_are_filled_before_hashing() -> None:
    plain = config()
    assert config_hash(plain) == config_hash(config(**{key.replace(".", "__"): value for key, value in NEW_KEYS.items()}))
    without_alpha = copy.deepcopy(MVE)
    del without_alpha["repair"]["alpha_max"], without_alpha["stability"]["layers"]
    filled = run_config_from(without_alpha)
    assert filled.repair.alpha_max == 0.999
    assert filled.stability.layers == filled.repair.protect_layers == (8, 9, 10, 11)


def test_what_a_family_implies() -> None:
    assert (config().repair.orthonormal, config(repair__family="B").repair.orthonormal) == (False, True)
    assert config(repair__family="B", repair__orthonormal=False).repair.orthonormal is False
    token_gate = config(repair__family="D").repair
    assert token_gate.form == "extended" and token_gate.token_gate is not None and token_gate.token_gate.hidden == 8
    assert config(repair__family="D", repair__token_gate={"checksum": True}).repair.token_gate.checksum is True  # type: ignore[union-attr]
    assert config(repair__family="D", repair__form="materialised").repair.form == "materialised"


def test_family_c_may_stand_on_b() -> None:
    on_a, on_b = (config(repair__family="C", repair__conditioning={}, repair__base=base) for base in "AB")
    assert on_a == config(repair__family="C", repair__conditioning={})
    assert (on_a.repair.base, on_a.repair.orthonormal) == ("A", False)
    assert (on_b.repair.base, on_b.repair.orthonormal) == ("B", True)
    plain = config(repair__family="C", repair__conditioning={}, repair__base="B", repair__orthonormal=False)
    spec, loose = (OperatorSpec.from_mapping(read.repair.model_dump()) for read in (on_b, plain))
    assert (spec.base, spec.orthonormal, loose.base, loose.orthonormal) == ("B", True, "B", False)
    assert len({config_hash(read) for read in (on_a, on_b, plain)}) == 3
    assert all(run_config_from(resolved_document(read)) == read for read in (on_a, on_b, plain))
    assert config().repair.base is None and config(repair__family="B").repair.base is None


@pytest.mark.parametrize("family", ["A", "B", "C", "D"])
def test_sections_are_what_the_operators_take(family: str) -> None:
    extra = {"repair__conditioning": {}} if family == "C" else {}
    read = config(repair__family=family, **extra)
    spec = OperatorSpec.from_mapping(read.repair.model_dump())
    assert (spec.family, spec.rank, spec.orthonormal, spec.serving_form) == (family, 8, family == "B", read.repair.form)
    assert Axes(**read.corruption.axes.model_dump()).p_head == 0.25
    assert OperatorParams(**read.corruption.params.model_dump()).overwrite_window == (16, 48)


def test_corruption_types_have_one_list() -> None:
    assert get_args(config_sections.CorruptionType) == ALL_TYPES
    assert get_args(config_sections.BaseType) == CORRUPTION_TYPES


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    assert config(train__lr="2e-4").train.lr == config().train.lr


# ---------------------------------------------------------------------- faults


def test_all_faults_at_once_with_the_nearest_name() -> None:
    broken = copy.deepcopy(MVE)
    broken["train"]["stepz"] = broken["train"].pop("steps")
    broken["corruption"]["axes"]["p_head"] = 1.5
    broken["corruption"]["eps_grid"] = [0, -0.1, True]
    broken["device"] = "auto"
    del broken["baseline"]["clip_val"]
    found = faults(broken, stability__layers=[8, 20], corruption__mixture="defalt_mix", eval__ood_protocol="loto_holdout_gausian")
    assert set(found) == {
        "train.stepz", "train.steps", "corruption.axes.p_head", "corruption.eps_grid.1", "corruption.eps_grid.2", "device",
        "baseline.clip_val", "stability.layers", "corruption.mixture", "eval.ood_protocol",
    }  # fmt: skip
    assert "did you mean train.steps?" in found["train.stepz"]
    assert "at most 1" in found["corruption.axes.p_head"]
    assert found["device"] == "device: found 'auto'; allowed: cpu, cuda or cuda:<i>."
    assert "default_mix" in found["corruption.mixture"]
    assert "loto_holdout_gaussian" in found["eval.ood_protocol"]
    assert all(sentence.count(";") >= 1 and sentence.endswith((".", "?")) for sentence in found.values())


def test_a_bad_override_does_not_hide_the_other_faults() -> None:
    assert set(faults(seed__more=1, train__steps=0)) == {"seed.more", "train.steps"}


REQUIRED = [
    f"{section}.{key}" if section else key
    for section, body in [("", MVE), *((name, MVE[name]) for name in ("model", "repair", "train", "baseline", "eval", "stability"))]
    for key in body
    if f"{section}.{key}" not in ("model.revision", "repair.alpha_max", "stability.layers")
]


@pytest.mark.parametrize("path", REQUIRED)
def test_every_other_key_is_required(path: str) -> None:
    document = copy.deepcopy(MVE)
    *way, last = path.split(".")
    section = document
    for part in way:
        section = section[part]
    del section[last]
    assert path in faults(document)


@pytest.mark.parametrize(
    ("overrides", "path", "says"),
    [
        (
            {"corruption__axes": {"layer_mode": "bernoulli", "head_mode": "all", "time_mode": "all_past"}},
            "corruption.axes.p_layer",
            "bernoulli",
        ),
        (
            {"corruption__axes": {"layer_mode": "all", "head_mode": "bernoulli", "time_mode": "all_past"}},
            "corruption.axes.p_head",
            "bernoulli",
        ),
        ({"corruption__axes__layer_mode": "targeted"}, "corruption.axes.layers", "targeted"),
        ({"corruption__axes__head_mode": "targeted", "corruption__axes__heads": []}, "corruption.axes.heads", "targeted"),
        ({"corruption__axes__time_mode": "window"}, "corruption.axes.window", "[a, b]"),
        ({"corruption__axes__window": [9, 3]}, "corruption.axes.window", "a below b"),
        ({"stability__time_mode": "window"}, "stability.window", "[a, b]"),
        ({"corruption__params__overwrite_window": [48, 16]}, "corruption.params.overwrite_window", "a below b"),
        ({"repair__family": "C"}, "repair.conditioning", "family C needs it"),
        ({"repair__conditioning": {}}, "repair.conditioning", "belongs to family C"),
        ({"repair__token_gate": {}}, "repair.token_gate", "belongs to family D"),
        ({"repair__family": "D", "repair__token_gate": None}, "repair.token_gate", "family D needs it"),
        ({"repair__family": "D", "repair__form": "collapsed"}, "repair.form", "extended, materialised"),
        ({"repair__orthonormal": True}, "repair.orthonormal", "belongs to family B"),
        ({"repair__family": "C", "repair__conditioning": {}, "repair__orthonormal": True}, "repair.orthonormal", "C with repair.base B"),
        ({"repair__base": "A"}, "repair.base", "belongs to family C"),
        ({"repair__family": "B", "repair__base": "B"}, "repair.base", "found 'B' with family B; allowed: nothing or null"),
        ({"repair__family": "D", "repair__base": "A"}, "repair.base", "belongs to family C"),
        ({"repair__family": "C", "repair__conditioning": {}, "repair__base": "D"}, "repair.base", "A, B"),
        ({"repair__family": "C", "repair__conditioning": {}, "repair__base": None}, "repair.base", "family C needs it"),
        ({"eval__batch_size": 0}, "eval.batch_size", "at least 1"),
        ({"eval__sst2_wording": "chatty"}, "eval.sst2_wording", "{text} once"),
        ({"eval__sst2_wording": "{text} or {text}?"}, "eval.sst2_wording", "tiny_chat"),
        ({"eval__sst2_wording": "{text} {label}"}, "eval.sst2_wording", "no other placeholder"),
        ({"eval__needle_values": ["a-1", "b-2", "c-3"]}, "eval.needle_values", "at least 4"),
        ({"eval__needle_values": ["a-1", "b-2", "c-3", "a-1"]}, "eval.needle_values", "a-1 twice"),
        ({"eval__needle_values": ["a-1", "b-2", "c-3", ""]}, "eval.needle_values.3", "at least 1"),
        ({"stability__layers": [7, 8]}, "stability.layers", "found 7; allowed: layers of repair.protect_layers (8, 9, 10, 11)"),
        ({"eval__corruption_eval__types": ["targeted"]}, "corruption.axes", "neither layers nor heads"),
        ({"repair__gate_rows": "last"}, "repair.gate_rows", "no perplexity"),
        ({"repair__gate_rows": "last", "train__batch_size": 4}, "train.batch_size", "one sequence at a time"),
        ({"corruption__inject": "inline", "train__batch_size": 4}, "train.batch_size", "one sequence at a time"),
        ({"model__use_cache": False}, "model.use_cache", "true"),
        ({"train__tail_len": 96}, "train.tail_len", "below train.prefix_len (96)"),
        ({"repair__protect_layers": [8, 9, 10, 11, 8]}, "repair.protect_layers", "8 twice"),
        ({"eval__corruption_eval__eps": [0, 0.2, 0.1]}, "eval.corruption_eval.eps", "rising"),
        ({"data__long_context__question_template": "{value}?"}, "data.long_context.question_template", "{needle_token}"),
        ({"eval__ood_protocol": "x", "eval__ood_splits_path": "no/such.yaml"}, "eval.ood_splits_path", "no/such.yaml"),
        ({"model__attn_implementation": "flash"}, "model.attn_implementation", "medic"),
        ({"train__temperature": 0.4}, "train.temperature", "at least 0.5"),
        ({"corruption__params__quant_bits": 1}, "corruption.params.quant_bits", "at least 2 and at most 16"),
        ({"eval__max_seq_len": True}, "eval.max_seq_len", "a whole number"),
    ],
)
def test_rules_between_keys(overrides: dict[str, Any], path: str, says: str) -> None:
    found = faults(**overrides)
    assert path in found and says in found[path], found


def test_rules_that_are_met_are_silent() -> None:
    config(corruption__axes__layer_mode="targeted", corruption__axes__layers=[8], eval__corruption_eval__types=["targeted"])
    config(corruption__inject="inline", model__use_cache=False)
    config(repair__gate_rows="last", eval__tasks=[{"name": "sst2_prompted", "num_examples": 2}])
    config(repair__family="C", repair__conditioning={"use_head_embedding": False})


def test_files_that_cannot_be_read_are_faults_of_the_flag(tmp_path: Path) -> None:
    for name, text in (("list.yaml", "[1]"), ("torn.yaml", "a: [1"), ("missing.yaml", None)):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=name) as caught:
            load_run_config(tmp_path / name)
        assert caught.value.exit_code == 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
LEAVES = [f"{name}.{key}" for name, body in MVE.items() if isinstance(body, dict) for key in body] + [
    "seed",
    "device",
    "dtype",
    "repair.token_gate",
]


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(LEAVES), json_values, min_size=1, max_size=3))
def test_any_values_are_read_or_refused_in_sentences(overrides: dict[str, Any]) -> None:
    refused: ConfigError | None = None
    try:
        read = run_config_from(MVE, ".", overrides)
    except ConfigError as error:
        refused = error
    if refused is None:
        assert run_config_from(resolved_document(read)) == read
    else:
        assert refused.faults and all(fault.path and fault.allowed for fault in refused.faults)


# ---------------------------------------------------------------------- the model


def test_the_model_decides_layers_rank_heads_and_lengths() -> None:
    check_against_model(config(), GPT2_MEDIUM)
    wrong = config(
        repair__protect_layers=[23, 24], stability__layers=[24], repair__rank=65, stability__head_subset=[15, 16], eval__max_seq_len=2048,
    )  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        check_against_model(wrong, GPT2_MEDIUM)
    said = {fault.path: fault.found for fault in caught.value.faults}
    assert said == {
        "repair.protect_layers": "24", "stability.layers": "24", "repair.rank": "65", "stability.head_subset": "16",
        "eval.max_seq_len": "2048 tokens",
    }  # fmt: skip


def test_a_region_that_is_always_empty_is_a_warning() -> None:
    assert "N_recent is 95" in config_warnings(config(corruption__axes__N_recent=95))[0]
    assert config_warnings(config(corruption__axes__N_recent=94)) == []
    assert "window starts at 200" in config_warnings(config(corruption__axes__time_mode="window", corruption__axes__window=[200, 210]))[0]


# ---------------------------------------------------------------------- the hash


def test_the_hash_is_sha256_of_sorted_ascii_json() -> None:
    read = config(data__long_context__needle_value="schlüssel")
    document = resolved_document(read)
    document["corruption"]["mixture"] = mixture_of(read).as_dict()
    document["data"]["offline_paths"] = {"wikitext2": None, "sst2": None}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    assert "schl\\u00fcssel" in text
    assert config_hash(read) == sha256_bytes(text.encode())


def test_every_value_counts_and_the_order_of_keys_does_not() -> None:
    assert config_hash(config(train__lambda_contr=0.4)) != config_hash(config())
    backwards = {key: MVE[key] for key in reversed(MVE)}
    assert config_hash(run_config_from(backwards)) == config_hash(config())


def test_a_changed_configuration_is_refused_with_exit_2() -> None:
    check_same_config(config(), config_hash(config()), "run_record.json")
    with pytest.raises(ConfigError, match=r"run_record\.json.*--no-resume") as caught:
        check_same_config(config(seed=1), config_hash(config()), "run_record.json")
    assert caught.value.exit_code == 2


def test_the_resolved_document_loads_again_to_the_same_hash(tmp_path: Path) -> None:
    for overrides in ({}, {"repair__family": "D"}, {"repair__family": "B"}, {"eval__ood_protocol": "loto_holdout_gaussian"}):
        read = config(**overrides)
        write_yaml(tmp_path / "config_resolved.yaml", resolved_document(read, tmp_path))
        again = load_run_config(tmp_path / "config_resolved.yaml")
        assert again == read and config_hash(again) == config_hash(read)


def test_a_mixture_counts_by_content_so_a_moved_run_keeps_its_hash(tmp_path: Path) -> None:
    run = tmp_path / "one" / "run"
    run.mkdir(parents=True)
    write_yaml(run / "ood_train_mix.yaml", {**mixture_of(config()).as_dict(), "name": "mine"})
    write_yaml(run / "config.yaml", {**MVE, "corruption": {**MVE["corruption"], "mixture": "ood_train_mix.yaml"}})
    read = load_run_config(run / "config.yaml")
    assert Path(read.corruption.mixture).is_absolute()
    write_yaml(run / "config_resolved.yaml", resolved_document(read, run))
    moved = tmp_path / "two"
    shutil.move(run.parent, moved)
    again = load_run_config(moved / "run" / "config_resolved.yaml")
    assert again.corruption.mixture != read.corruption.mixture
    assert config_hash(again) != config_hash(config())
    changed = {**mixture_of(again).as_dict(), "weights": {"gaussian": 1.0}}
    before = config_hash(again)
    write_yaml(moved / "run" / "ood_train_mix.yaml", changed)
    assert config_hash(again) != before
    write_yaml(moved / "run" / "ood_train_mix.yaml", {**mixture_of(config()).as_dict(), "name": "mine"})
    assert config_hash(again) == before


def test_offline_texts_count_by_content_when_they_are_used(tmp_path: Path) -> None:
    hashes = set()
    for folder, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "text.txt").write_text(text)
        write_yaml(tmp_path / folder / "config.yaml", MVE)
        overrides = {"data.use_offline": True, "data.offline_paths.wikitext2": "text.txt"}
        read = load_run_config(tmp_path / folder / "config.yaml", overrides)
        assert hashed_document(read)["data"]["offline_paths"]["wikitext2"].startswith("sha256:")
        hashes.add(config_hash(read))
    assert len(hashes) == 2
    assert config_hash(config(data__offline_paths__wikitext2="elsewhere.txt")) == config_hash(config())


# ---------------------------------------------------------------------- held-out type, counterpart


@pytest.mark.parametrize("kind", CORRUPTION_TYPES)
def test_a_held_out_type_is_not_trained_on_and_alone_is_evaluated(kind: str) -> None:
    read = config(eval__ood_protocol=f"loto_holdout_{kind}")
    weights = training_mixture_of(read).weights
    assert set(weights) == set(CORRUPTION_TYPES) - {kind} and sum(weights.values()) == pytest.approx(1.0, abs=1e-12)
    assert evaluated_types(read) == (kind,)


def test_without_a_protocol_everything_is_trained_and_evaluated(tmp_path: Path) -> None:
    assert training_mixture_of(config()) == mixture_of(config())
    assert evaluated_types(config()) == CORRUPTION_TYPES
    shutil.copy(SPLITS_FILE, tmp_path / "mine.yaml")
    own = config(eval__ood_protocol="loto_holdout_gaussian", eval__ood_splits_path=str(tmp_path / "mine.yaml"))
    assert evaluated_types(own) == ("gaussian",)


def test_a_counterpart_differs_in_lambda_contr_alone() -> None:
    own = config()
    assert is_counterpart(own, config(train__lambda_contr=0.0))
    assert not is_counterpart(own, config(train__lambda_contr=0.1))
    assert not is_counterpart(own, config(train__lambda_contr=0.0, seed=1235))
    assert not is_counterpart(own, config(train__lambda_contr=0.0, train__lr=1e-4))


def test_reading_a_configuration_imports_no_torch() -> None:
    code = (
        "import sys; from cachemedicpp.config.settings import DEFAULT_PRESETS, config_hash, load_run_config; import cachemedicpp.schemas\n"
        "config_hash(load_run_config(DEFAULT_PRESETS[0])); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("Review: {text}\nSentiment:", ("Review: ", "\nSentiment:")),
        ("{text}", ("", "")),
        ("{{x}} {text} {{y}}", ("{x} ", " {y}")),
        ("no slot", None),
        ("{{text}}", None),
        ("{text}{text}", None),
        ("{text!r}", None),
        ("{text:>9}", None),
        ("{0} {text}", None),
        ("{text} }", None),
    ],
)
def test_a_template_has_one_slot_for_the_review(template: str, parts: tuple[str, str] | None) -> None:
    assert text_slot(template) == parts
    if parts is not None:
        assert template.format(text="GOOD") == f"{parts[0]}GOOD{parts[1]}"
        assert config(eval__sst2_wording=template).eval.sst2_wording == template


def test_wordings_and_batch_are_those_of_the_evaluation() -> None:
    from cachemedicpp.evaluation.defences import BATCH
    from cachemedicpp.inputs.tasks import WORDINGS

    assert ("auto", *WORDINGS) == config_sections.WORDING_NAMES
    assert config().eval.batch_size == BATCH


def test_tasks_have_the_names_of_the_scoring() -> None:
    from cachemedicpp.inputs.tasks import NEEDLE, PASSKEY, SST2, WIKITEXT

    assert get_args(config_sections.TaskName) == (WIKITEXT, SST2, NEEDLE, PASSKEY)
