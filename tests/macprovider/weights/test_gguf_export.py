"""The GGUF file read back by GGUF's own reader: tensors against the safetensors, metadata against config and tokenizer, positions
against transformers.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.torch import load_file
from transformers import LlamaConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from helpers.tiny_random import random_gpt2, random_llama, random_qwen3
from macprovider.weights.gguf_config import ExportError, describe
from macprovider.weights.gguf_export import export_gguf, gguf_name, interleave
from macprovider.weights.gguf_tokenizer import read_tokenizer
from modelwright.errors import StorageError, UsageError
from modelwright.tiny import tiny_model_path

gguf = pytest.importorskip("gguf")


def saved(folder: Path, model: PreTrainedModel) -> Path:
    """A random model with the tokenizer of the tiny ones, which has merges as GGUF's readers demand."""
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny_model_path("tiny-0.4m") / name, folder / name)
    return folder


def read(path: Path) -> tuple[dict[str, Any], dict[str, numpy.ndarray]]:
    """(metadata, tensors dequantised in transformers' shape)"""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {}
    for tensor in reader.tensors:
        shape = tuple(int(side) for side in reversed(tensor.shape.tolist()))
        tensors[tensor.name] = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
    return fields, tensors


def deinterleave(values: numpy.ndarray, heads: int) -> numpy.ndarray:
    rows = values.shape[0] // heads
    return numpy.concatenate(
        [numpy.concatenate([head[0::2], head[1::2]]) for head in values.reshape(heads, rows, *values.shape[1:])]
    ).reshape(values.shape)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    import torch

    qwen2 = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=1024,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    )
    with torch.no_grad():
        for parameter in qwen2.parameters():
            parameter.normal_()
    return {
        "tiny": tiny_model_path("tiny-0.4m"),
        "llama": saved(root / "llama", random_llama(vocab_size=1024, tie_word_embeddings=False, attention_bias=True)),
        "qwen3": saved(root / "qwen3", random_qwen3(vocab_size=1024)),
        "qwen2": saved(root / "qwen2", qwen2),
        "half": saved(root / "half", random_llama(vocab_size=1024).to(torch.bfloat16)),
    }


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("which", ["tiny", "llama", "qwen2", "qwen3", "half"])
def test_every_tensor_is_that_of_the_safetensors(models: dict[str, Path], tmp_path: Path, which: str, kind: Any) -> None:
    folder = models[which]
    written = export_gguf(folder, tmp_path / "x.gguf", name=which, kind=kind)
    fields, tensors = read(tmp_path / "x.gguf")
    config = json.loads((folder / "config.json").read_text())
    originals = {name: value.float().numpy() for name, value in load_file(folder / "model.safetensors").items()}
    assert written.bytes == (tmp_path / "x.gguf").stat().st_size and written.tensors == len(tensors)
    expected = {gguf_name(name): name for name in originals}
    assert set(tensors) == set(expected)
    for target, name in expected.items():
        found, original = tensors[target], originals[name]
        if fields["general.architecture"] == "llama" and name.split(".")[-2] in ("q_proj", "k_proj"):
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            found = deinterleave(found, heads)
        assert found.shape == original.shape
        if original.ndim == 1 or kind == "f32":
            assert numpy.array_equal(found, original), name
        elif kind == "f16":
            assert numpy.array_equal(found, original.astype(numpy.float16).astype(numpy.float32)), name
        else:
            blocks = numpy.abs(original).reshape(-1, 32).max(axis=1, keepdims=True) / 127
            step = numpy.broadcast_to(blocks, (blocks.size, 32)).reshape(original.shape)
            assert (numpy.abs(found - original) <= 0.51 * step + 0.0005 * numpy.abs(original)).all(), name


def test_the_metadata_is_that_of_the_config_and_the_tokenizer(models: dict[str, Path], tmp_path: Path) -> None:
    export_gguf(models["tiny"], tmp_path / "x.gguf", name="modelwright/tiny-0.4m", kind="q8_0")
    fields, _ = read(tmp_path / "x.gguf")
    config = json.loads((models["tiny"] / "config.json").read_text())
    tokenizer = json.loads((models["tiny"] / "tokenizer.json").read_text())
    settings = json.loads((models["tiny"] / "tokenizer_config.json").read_text())
    assert fields["general.architecture"] == "llama" and fields["general.name"] == "tiny-0.4m" and fields["general.file_type"] == 7
    assert fields["llama.context_length"] == config["max_position_embeddings"]
    assert fields["llama.embedding_length"] == config["hidden_size"]
    assert fields["llama.attention.head_count"] == config["num_attention_heads"]
    assert fields["llama.attention.head_count_kv"] == config["num_key_value_heads"]
    assert fields["llama.block_count"] == config["num_hidden_layers"]
    assert fields["llama.rope.dimension_count"] == config["head_dim"]
    assert fields["llama.rope.freq_base"] == config["rope_parameters"]["rope_theta"]
    assert fields["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(config["rms_norm_eps"])
    tokens = fields["tokenizer.ggml.tokens"]
    assert tokens == sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    assert fields["tokenizer.ggml.merges"] == [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    kinds = {entry["content"]: 3 if entry["special"] else 4 for entry in tokenizer["added_tokens"]}
    assert fields["tokenizer.ggml.token_type"] == [kinds.get(token, 1) for token in tokens]
    assert fields["tokenizer.ggml.model"] == "gpt2" and fields["tokenizer.ggml.pre"] == "smollm"
    for ours, theirs in (("bos", "bos_token"), ("eos", "eos_token"), ("padding", "pad_token")):
        assert tokens[fields[f"tokenizer.ggml.{ours}_token_id"]] == settings[theirs]
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.chat_template"] == (models["tiny"] / "chat_template.jinja").read_text()


def test_interleaving_pairs_neighbours_and_is_undone() -> None:
    rows = numpy.arange(2 * 6)[:, None] * numpy.ones((1, 3))
    assert interleave(rows, 2)[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert numpy.array_equal(deinterleave(interleave(rows, 2), 2), rows)


ROPES = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "theta": {"rope_type": "default", "rope_theta": 500000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 512},
    "yarn with its own factors": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "original_max_position_embeddings": 256,
        "attention_factor": 1.5,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 512,
        "short_factor": [1.0 + 0.2 * pair for pair in range(16)],
        "long_factor": [1.0 + 0.2 * pair for pair in range(16)],
    },
}


def ggml_rotation(metadata: dict[str, Any], divisors: tuple[float, ...], d: int, position: int) -> tuple[numpy.ndarray, float]:
    """Angles and magnitude by which llama.cpp rotates at `position`: `ggml_rope_cache_init` and `rope_yarn` put down anew."""
    base = metadata["llama.rope.freq_base"]
    kind = metadata.get("llama.rope.scaling.type", "none")
    scale = 1 / metadata.get("llama.rope.scaling.factor", 1.0)
    mix, magnitude = (1.0 if kind == "yarn" else 0.0), metadata.get("llama.rope.scaling.attn_factor", 1.0)
    angles = []
    original = metadata.get("llama.rope.scaling.original_context_length", 0)
    fast, slow = (metadata.get(f"llama.rope.scaling.yarn_beta_{speed}", usual) for speed, usual in (("fast", 32.0), ("slow", 1.0)))

    def corrected(turns: float) -> float:
        return d * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    for pair in range(d // 2):
        extrapolated = position * base ** (-2 * pair / d) / (divisors[pair] if divisors else 1.0)
        angle = scale * extrapolated
        if mix:
            low, high = max(0, math.floor(corrected(fast))), min(d - 1, math.ceil(corrected(slow)))
            ramp = 1 - min(1.0, max(0.0, (pair - low) / max(0.001, high - low)))
            angle = angle * (1 - ramp) + extrapolated * ramp
        angles.append(angle)
    if mix:
        magnitude *= 1 + 0.1 * math.log(1 / scale)
    return numpy.array(angles), magnitude


@pytest.mark.parametrize("which", ROPES)
def test_positions_are_rotated_as_transformers_rotates_them(which: str) -> None:
    settings = {"hidden_size": 128, "num_attention_heads": 4, "max_position_embeddings": 2048, "rope_parameters": dict(ROPES[which])}
    config = LlamaConfig(**settings)
    rotary = LlamaRotaryEmbedding(config)
    described = describe({**config.to_dict(), "architectures": ["LlamaForCausalLM"]}, which)
    for position in (1, 700):
        angles, magnitude = ggml_rotation(described.metadata, described.frequency_divisors, 32, position)
        assert angles / position == pytest.approx(rotary.inv_freq.double().numpy(), rel=1e-5)
        assert magnitude == pytest.approx(rotary.attention_scaling, rel=1e-6)


def test_factors_of_frequencies_are_a_tensor(tmp_path: Path) -> None:
    rope = {**ROPES["llama3"], "factor": 8.0}
    folder = saved(tmp_path / "m", random_llama(vocab_size=1024, rope_parameters=rope, max_position_embeddings=2048))
    export_gguf(folder, tmp_path / "x.gguf", name="m")
    _, tensors = read(tmp_path / "x.gguf")
    config = json.loads((folder / "config.json").read_text())
    assert tensors["rope_freqs.weight"].tolist() == pytest.approx(list(describe(config, "m").frequency_divisors))


def test_an_older_config_with_rope_scaling_is_understood() -> None:
    config = LlamaConfig().to_dict() | {"architectures": ["LlamaForCausalLM"], "rope_theta": 20000.0}
    del config["rope_parameters"]
    config["rope_scaling"] = {"type": "linear", "factor": 2.0}
    found = describe(config, "m").metadata
    assert (found["llama.rope.freq_base"], found["llama.rope.scaling.type"], found["llama.rope.scaling.factor"]) == (20000.0, "linear", 2.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "GemmaForCausalLM"),
        ({"architectures": []}, "llama"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"use_sliding_window": True}, "sliding"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding"),
        ({"quantization": {"bits": 4}}, "quantised"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
        ({"rope_parameters": {**ROPES["yarn"], "truncate": False}}, "truncate"),
        ({"rope_parameters": {**ROPES["longrope"], "short_factor": [1.0] * 16}}, "longrope"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "part of each head"),
        ({"architectures": ["Qwen2ForCausalLM"], "rope_parameters": ROPES["llama3"]}, "llama3"),
    ],
)
def test_what_gguf_cannot_say_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    config = {**LlamaConfig().to_dict(), "architectures": ["LlamaForCausalLM"], **change}
    with pytest.raises(ExportError, match=words):
        describe(config, "acme/model")


def test_a_family_that_is_not_known_leaves_no_file(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", random_gpt2(vocab_size=1024))
    done = subprocess.run(
        [sys.executable, "-m", "macprovider.cli", "models", "export-gguf", str(folder), "--out", str(tmp_path / "x.gguf")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "GPT2LMHeadModel" in done.stderr and "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["m"]


def test_a_tensor_without_a_place_or_missing_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = shutil.copytree(models["tiny"], tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "model.layers.0.extra.weight": tensors["model.norm.weight"].clone()}, folder / "model.safetensors")
    with pytest.raises(ExportError, match=r"model\.layers\.0\.extra\.weight"):
        export_gguf(folder, tmp_path / "x.gguf", name="m")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ExportError, match=r"blk\.0\.ffn_up\.weight"):
        export_gguf(folder, tmp_path / "x.gguf", name="m")
    assert os.listdir(tmp_path) == ["m"]


def test_a_value_beyond_f16_is_refused_and_the_old_file_stays(models: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = shutil.copytree(models["tiny"], tmp_path / "m")
    tensors = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = 1e6
    save_file(tensors, folder / "model.safetensors")
    (tmp_path / "x.gguf").write_text("old")
    with pytest.raises(ExportError, match="f32"):
        export_gguf(folder, tmp_path / "x.gguf", name="m")
    assert (tmp_path / "x.gguf").read_text() == "old" and sorted(os.listdir(tmp_path)) == ["m", "x.gguf"]
    export_gguf(folder, tmp_path / "x.gguf", name="m", kind="f32")
    assert read(tmp_path / "x.gguf")[1]["blk.1.ffn_up.weight"][3, 3] == 1e6


def test_a_place_that_cannot_be_written_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        export_gguf(models["tiny"], tmp_path / "nowhere" / "x.gguf", name="m")
    with pytest.raises(UsageError, match="folder"):
        export_gguf(models["tiny"], tmp_path, name="m")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"type": "Unigram"}}, "Unigram"),
        ({"model": {"type": "BPE", "byte_fallback": True}}, "SentencePiece"),
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": []}, "merges"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}}, "add_prefix_space"),
    ],
)
def test_a_tokenizer_that_gguf_cannot_say_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    document = json.loads((tiny_model_path("tiny-0.4m") / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**document, **change}))
    with pytest.raises(ExportError, match=words):
        read_tokenizer(tmp_path, 1024, "acme/model")


def test_rows_beyond_the_vocabulary_are_unused_and_too_few_are_refused() -> None:
    folder = tiny_model_path("tiny-0.4m")
    found = read_tokenizer(folder, 1030, "m")
    assert found.tokens[1024:] == tuple(f"[PAD{number}]" for number in range(1024, 1030)) and set(found.types[1024:]) == {5}
    with pytest.raises(ExportError, match="1023"):
        read_tokenizer(folder, 1000, "m")
