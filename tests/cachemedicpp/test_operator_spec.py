"""The data of a repair operator: defaults, faults, reading and writing."""

import pytest

from cachemedicpp.repair.spec import OperatorSpec, refuse_last_row_gates
from modelwright.errors import ConfigError, UsageError


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        OperatorSpec(family="A", rank=0, protect_layers=(1, 1), apply_to="Q", alpha_max=1.0, orthonormal=True, gate_rows="first")  # type: ignore[arg-type]
    paths = {fault.path for fault in caught.value.faults}
    assert paths == {"repair." + name for name in ("rank", "protect_layers", "apply_to", "alpha_max", "orthonormal", "gate_rows")}


@pytest.mark.parametrize(
    "options",
    [{"family": "A", "base": "B"}, {"family": "D", "base": "B"}, {"family": "B", "token_gate": {}}, {"family": "A", "conditioning": {}}],
)
def test_options_of_another_family_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match="repair"):
        OperatorSpec.from_mapping({"rank": 2, "protect_layers": [0], **options})


def test_defaults_follow_the_family() -> None:
    def spec(**options: object) -> OperatorSpec:
        return OperatorSpec(**{"rank": 2, "protect_layers": (3, 1), **options})  # type: ignore[arg-type]

    assert spec(family="A").alpha_max == 0.999 and spec(family="A").protect_layers == (1, 3)
    assert spec(family="B").orthonormal is True and spec(family="B", orthonormal=False).orthonormal is False
    assert spec(family="C", base="B").orthonormal is True and spec(family="C").orthonormal is False
    assert spec(family="D").token_gate is not None and spec(family="D").serving_form == "extended"
    assert spec(family="C").conditioning is not None and spec(family="C").serving_form == "collapsed"


def test_written_values_read_back_equal_and_unknown_keys_are_named() -> None:
    spec = OperatorSpec(family="D", rank=3, protect_layers=(2,), apply_to="V", alpha_max=0.9)
    assert OperatorSpec.from_mapping(spec.as_mapping()) == spec
    assert OperatorSpec.from_mapping({**spec.as_mapping(), "form": "extended"}) == spec
    with pytest.raises(ConfigError, match=r"repair\.ranks"):
        OperatorSpec.from_mapping({**spec.as_mapping(), "ranks": 3})


def test_last_row_gates_may_not_score() -> None:
    refuse_last_row_gates(OperatorSpec(family="A", rank=1, protect_layers=(0,)), "a perplexity")
    with pytest.raises(UsageError, match="a perplexity would be wrong"):
        refuse_last_row_gates(OperatorSpec(family="A", rank=1, protect_layers=(0,), gate_rows="last"), "a perplexity")
