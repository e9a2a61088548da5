"""What is said about wrong types in a job document: what was found, what is allowed, what to do, in words of the user's."""

from __future__ import annotations

from typing import Any

import pytest

from modelwright.config import Layer
from modelwright.errors import ConfigError
from scaler_wizard.arguments import parse
from scaler_wizard.draft import draft_job
from scaler_wizard.findings import Findings
from scaler_wizard.layers import typed, without

DOCUMENT: dict[str, Any] = {
    "model": {"base_model": "modelwright/tiny-1.5m"},
    "scaling": {},
    "dataset": {},
    "safety": {},
    "contract": {"version": "1.0.0"},
}
IN_SECTIONS = "write `{}:` on a line of its own and its settings indented below it, one `name: value` per line."


def said(**sections: Any) -> list[str]:
    """The lines about a document whose sections are replaced by these."""
    with pytest.raises(ConfigError) as caught:
        draft_job(parse([]), {**DOCUMENT, **sections})
    return str(caught.value).splitlines()


def test_a_list_for_a_section_is_called_a_list() -> None:
    allowed = "allowed: a mapping of settings (strategy, adaptive_rank, lora_rank, lora_alpha and 16 more)"
    assert said(scaling=[1, 2]) == [f"scaling: found a list [1, 2]; {allowed}. {IN_SECTIONS.format('scaling')}"]


@pytest.mark.parametrize(
    ("sections", "path", "parts"),
    [
        ({"scaling": None}, "scaling", ["found nothing", "this section is required", "add scaling"]),
        ({"model": "modelwright/tiny-1.5m"}, "model", ["found 'modelwright/tiny-1.5m'", "a mapping of settings (base_model,"]),
        ({"contract": [1]}, "contract", ["found a list [1]", "a mapping of settings (version,"]),
        ({"safety": {"telemetry": None}}, "safety.telemetry", ["found null", "a mapping of settings", "write `telemetry:`"]),
        ({"safety": {"circuit_breaker": 3}}, "safety.circuit_breaker", ["found 3", "a mapping of settings (mode,"]),
        ({"training": "fast"}, "training", ["found 'fast'", "a mapping of settings (steps_per_rung,"]),
        ({"scalling": {}}, "scalling", ["an unknown key", "did you mean scaling?"]),
        ({"model": {"base_model": None}}, "model.base_model", ["found null", "a local directory with config.json or a hub id", "name the"]),
        ({"scaling": {"lora_rnak": 4}}, "scaling.lora_rnak", ["an unknown key", "did you mean scaling.lora_rank?"]),
        ({"scaling": {"lora_rank": [4]}}, "scaling.lora_rank", ["a list [4]", "a whole number at least 1 and at most 512, or null."]),
        ({"scaling": {"target_context": True}}, "scaling.target_context", ["found true", "a whole number at least 2048"]),
        ({"scaling": {"context_schedule": "4096,8192"}}, "scaling.context_schedule", ["a list of whole numbers above 0", "in brackets"]),
        (
            {"scaling": {"context_schedule": [4096, "x"]}},
            "scaling.context_schedule.1",
            ["found 'x'", "a whole number above 0", "take it out"],
        ),
        ({"scaling": {"method_params": [1]}}, "scaling.method_params", ["a list [1]", "a mapping", "write it as {name: value}"]),
        ({"training": {"steps_per_rung": "many"}}, "training.steps_per_rung", ["found 'many'", "a whole number at least 1."]),
        ({"training": {"warmup_steps": -1}}, "training.warmup_steps", ["found -1", "a whole number at least 0."]),
        ({"training": {"learning_rate": None}}, "training.learning_rate", ["found null", "a number above 0", "leave the line out"]),
        ({"training": {"pack": "maybe"}}, "training.pack", ["found 'maybe'", "true or false"]),
        ({"training": {"rungs": {"long": {}}}}, "training.rungs", ["the key 'long'", "a whole number as key"]),
        ({"training": {"rungs": {4096: 3}}}, "training.rungs.4096", ["found 3", "a mapping with steps, learning_rate"]),
        ({"probes": "passkey"}, "probes", ["found 'passkey'", "a list of texts", "in brackets"]),
        ({"model": {"base_model": "m", "runtime": "tpu"}}, "model.runtime", ["found 'tpu'", "multi_gpu and remote are not part"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_wrong_type_has_a_sentence_of_ours(sections: dict[str, Any], path: str, parts: list[str]) -> None:
    about = [line for line in said(**sections) if line.startswith(f"{path}: ")]
    assert len(about) == 1, said(**sections)
    assert [part for part in parts if part not in about[0]] == [], about[0]
    assert "; allowed: " in about[0] and "input should" not in about[0].lower() and "valid" not in about[0]


def test_a_missing_section_is_told_once() -> None:
    document = {key: value for key, value in DOCUMENT.items() if key != "model"}
    with pytest.raises(ConfigError) as caught:
        draft_job(parse([]), document)
    assert str(caught.value) == "model: found nothing; allowed: this section is required in a job document. add model."


def test_a_faulty_item_leaves_the_others_in_the_list() -> None:
    findings = Findings()
    layer = Layer("cli", {"model": {"base_model": "m"}, "scaling": {"context_schedule": ["x", "4096", "y", "1024"]}})
    settings, _ = typed([layer], findings)
    assert settings.scaling.context_schedule == [4096, 1024]
    assert [(fault.path, fault.found) for fault in findings.faults] == [("--context-schedule", "'x'"), ("--context-schedule", "'y'")]


def test_without_takes_out_what_is_named_and_copies_the_rest() -> None:
    values = {"a": {"b": 1, "c": [1, 2, 3]}, "d": 4, 5: {"e": 6}}
    assert without(values, ["a.b", "a.c.0", "a.c.2", "d.below", "no.such"]) == {"a": {"c": [2]}, "5": {"e": 6}}
    assert values["a"]["c"] == [1, 2, 3]  # type: ignore[index]
