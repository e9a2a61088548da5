"""What each method writes into a configuration, and that transformers computes from it what we compute."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelwright.errors import ConfigError
from scaler_wizard.context_methods import available, get_method
from scaler_wizard.context_methods.settings import UnsupportedContextError

CASES = [
    ("linear", {}),
    ("ntk", {}),
    ("ntk", {"factor": 12.0}),
    ("dynamic_ntk", {}),
    ("dynamic_ntk", {"factor": 4.0}),
    ("yarn", {}),
    ("yarn", {"truncate": False}),
    ("yarn", {"ramp": "paper"}),
    ("yarn", {"beta_fast": 16.0, "beta_slow": 2.0}),
    ("yarn", {"attention_factor": 1.5}),
    ("yarn", {"ramp": "paper", "attention_factor": 1.5}),
    ("yarn", {"mscale": 0.7, "mscale_all_dim": 1.0}),
]
REAL = {
    "llama": {"hidden_size": 2048, "num_attention_heads": 32, "max_position_embeddings": 2048},
    "qwen3": {
        "hidden_size": 1024,
        "num_attention_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "mistral": {"hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 8192},
    "stablelm": {"hidden_size": 2560, "num_attention_heads": 32, "max_position_embeddings": 4096},
    "gpt_neox": {"hidden_size": 1024, "num_attention_heads": 8, "max_position_embeddings": 2048},
}


def library_inv_freq(config: Any, seq_len: int | None = None) -> tuple[Any, float]:
    """What transformers computes for a configuration: [d/2] and the attention factor."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.stablelm.modeling_stablelm import StableLmRotaryEmbedding

    kind = config.rope_parameters["rope_type"]
    if kind == "default":
        return StableLmRotaryEmbedding.compute_default_rope_parameters(config)
    return ROPE_INIT_FUNCTIONS[kind](config, None, seq_len=seq_len)


@pytest.mark.parametrize("model_type", list(REAL))
@pytest.mark.parametrize(("method_id", "opts"), CASES)
@pytest.mark.parametrize("s", [1, 1.5, 8, 32])
def test_reference_frequencies_equal_those_of_transformers(method_id: str, opts: dict[str, Any], model_type: str, s: float) -> None:
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[model_type](**REAL[model_type])
    target = int(config.max_position_embeddings * s)
    method = get_method(method_id)
    patched = type(config).from_dict({**config.to_dict(), **method.parameters(config, target, **opts)})
    for seq_len in (None, target // 3, target, target + 1):
        ours, our_factor = method.inv_freq(config, target, seq_len, **opts)
        theirs, their_factor = library_inv_freq(patched, seq_len)
        assert ours.dtype == theirs.dtype
        assert float((ours - theirs).abs().max()) < 2e-7
        assert float(((ours - theirs).abs() / theirs).max()) < 5e-6
        assert our_factor == pytest.approx(their_factor, rel=1e-6)


def test_the_patches_speak_transformers_words(make_config: Any) -> None:
    config = make_config("llama")
    patch = {method_id: get_method(method_id).parameters(config, 256) for method_id in available()}
    assert patch["linear"]["rope_parameters"] == {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    assert patch["ntk"]["rope_parameters"] == {
        "rope_type": "default",
        "rope_theta": pytest.approx(1e4 * 4 ** (16 / 14)),
    }
    assert patch["dynamic_ntk"]["rope_parameters"] == {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 1.0}
    expected = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    assert patch["yarn"]["rope_parameters"] == expected
    lengths = {method_id: values["max_position_embeddings"] for method_id, values in patch.items()}
    assert lengths == {"linear": 256, "ntk": 256, "dynamic_ntk": 64, "yarn": 256}


def test_parameters_survive_json_and_record_the_ramp(make_config: Any) -> None:
    for ramp in ("index", "paper"):
        patch = get_method("yarn").parameters(make_config("llama"), 256, ramp=ramp)
        assert json.loads(json.dumps(patch)) == patch
        assert patch["context_extension"]["options"]["ramp"] == ramp


def test_the_paper_ramp_is_a_longrope_with_one_set_of_factors(make_config: Any) -> None:
    rope = get_method("yarn").parameters(make_config("llama"), 512, ramp="paper")["rope_parameters"]
    assert rope["rope_type"] == "longrope"
    assert rope["short_factor"] == rope["long_factor"]
    assert rope["long_factor"][-1] == 8.0
    assert rope["attention_factor"] == pytest.approx(1.207944, rel=1e-6)


def test_paper_ramp_in_transformers_keeps_fast_frequencies_bit_for_bit_and_divides_slow_ones_by_s() -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(**REAL["llama"])
    plain, _ = library_inv_freq(config)
    patch = get_method("yarn").parameters(config, 16384, ramp="paper")
    scaled, _ = library_inv_freq(LlamaConfig.from_dict({**config.to_dict(), **patch}), 16384)
    turns = 2048 * plain.double() / (2 * 3.141592653589793)
    fast, slow = turns > 32, turns < 1
    assert fast.sum() > 5
    assert slow.sum() > 5
    assert (scaled[fast] == plain[fast]).all()
    assert (scaled[slow] * 8 == plain[slow]).all()


def test_partial_rotary_factor_is_kept(make_config: Any) -> None:
    for method_id in available():
        rope = get_method(method_id).parameters(make_config("gpt_neox"), 256)["rope_parameters"]
        assert rope["partial_rotary_factor"] == 0.5


def test_phi3_takes_yarn_in_longrope_form_and_refuses_types_its_configuration_rejects(make_config: Any) -> None:
    config = make_config("phi3")
    assert get_method("yarn").parameters(config, 256)["rope_parameters"]["rope_type"] == "longrope"
    assert get_method("ntk").supports(config).ok
    for method_id in ("linear", "dynamic_ntk"):
        support = get_method(method_id).supports(config)
        assert not support.ok
        assert "does not accept RoPE type" in support.reason
        with pytest.raises(UnsupportedContextError, match=r"phi3"):
            get_method(method_id).parameters(config, 256)


def test_supports_warns_of_a_sliding_window_and_of_a_scaled_base(make_config: Any) -> None:
    assert get_method("yarn").supports(make_config("llama")).warnings == ()
    (sliding,) = get_method("yarn").supports(make_config("mistral", sliding_window=32)).warnings
    assert "slides over 32 tokens" in sliding
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    (scaled,) = get_method("yarn").supports(make_config("llama", rope_parameters=rope)).warnings
    assert "already scaled (dynamic" in scaled


@pytest.mark.parametrize("target", [63, 0, -4, 128.0, True, "128"])
def test_a_bad_target_is_refused(make_config: Any, target: Any) -> None:
    with pytest.raises(ConfigError, match=r"target_context: found .*at least the original context 64"):
        get_method("yarn").parameters(make_config("llama"), target)


@pytest.mark.parametrize(
    ("method_id", "opts", "message"),
    [
        ("yarn", {"rampe": "paper"}, "method_params.rampe.*did you mean ramp"),
        ("yarn", {"ramp": "steep"}, "'steep'; allowed: one of index, paper"),
        ("yarn", {"beta_fast": 1, "beta_slow": 32}, "a number above beta_slow = 32"),
        ("yarn", {"mscale": 1.0}, "both or neither"),
        ("yarn", {"attention_factor": -1}, "a positive number"),
        ("yarn", {"truncate": 1}, "true or false"),
        ("ntk", {"factor": 0.5}, "a number of at least 1"),
        ("linear", {"factor": 2.0}, "allowed: no options"),
        ("linear", {"original_context": 0}, "original_context: found 0"),
    ],
)
def test_bad_options_are_refused(make_config: Any, method_id: str, opts: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_method(method_id).parameters(make_config("llama"), 256, **opts)


def test_three_bad_options_are_three_faults(make_config: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        get_method("yarn").parameters(make_config("llama"), 256, ramp="x", mscale=-1, truncate="no")
    assert len(caught.value.faults) == 4  # the lone mscale is a fault of its own
