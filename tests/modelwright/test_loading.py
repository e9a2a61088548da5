from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from helpers.tiny_random import byte_tokenizer, random_llama, save_model
from modelwright.errors import LoadError, UsageError
from modelwright.loading import (
    check_causal_lm,
    check_tokenizer,
    count_parameters,
    load_model,
    load_tokenizer,
    missing_weight_files,
    read_config,
    resolve_model,
)

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model with spaces ü"))


@torch.no_grad()
def test_local_model_loads_with_the_same_logits(folder: Path) -> None:
    source = resolve_model(str(folder), offline=True)
    assert (source.kind, source.path) == ("local", folder)
    ids = torch.tensor([load_tokenizer(source)("hello", add_special_tokens=False)["input_ids"]])
    model = load_model(source)
    assert not model.training and model.config._attn_implementation == "sdpa"
    assert torch.equal(model(ids).logits, random_llama()(ids).logits)


def test_bfloat16_is_kept(folder: Path) -> None:
    assert load_model(resolve_model(str(folder)), dtype="bfloat16").dtype == torch.bfloat16


@torch.no_grad()
def test_rope_parameters_keep_theta_and_equal_a_fresh_build(folder: Path) -> None:
    config = random_llama(rope_parameters={"rope_type": "default", "rope_theta": 5000.0}).config
    fresh = random_llama(rope_parameters={**YARN, "rope_theta": 5000.0}, max_position_embeddings=2048)
    here = folder.parent / "theta"
    LlamaForCausalLM(config).save_pretrained(here)
    fresh.save_pretrained(here / "weights")
    (here / "model.safetensors").write_bytes((here / "weights" / "model.safetensors").read_bytes())
    model = load_model(resolve_model(str(here)), rope_parameters=YARN, max_position_embeddings=2048)
    assert model.config.rope_parameters["rope_theta"] == 5000.0
    assert model.config.max_position_embeddings == 2048
    ids = torch.arange(200)[None]
    assert torch.equal(model(ids).logits, fresh(ids).logits)


def test_unknown_names(tmp_path: Path) -> None:
    for name, says in [
        (str(tmp_path), "has no config.json"),
        ("a/b/c", "neither a folder"),
        ("no such model!", "neither a folder"),
        (__file__, "is a file"),
    ]:
        with pytest.raises(LoadError, match=says) as caught:
            resolve_model(name)
        assert caught.value.exit_code == 5


def test_offline_hub_id_says_what_is_missing_and_how_to_fetch_it(tmp_path: Path) -> None:
    """In a process of its own, because the hub client reads its cache folder once, at import. No network call may
    happen.
    """
    program = (
        "import socket, sys\n"
        "def refuse(*a, **k): sys.exit('network was used')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from modelwright.loading import *\n"
        "try: resolve_model('owner/some-model', revision='v2', offline=True)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    environment = {"HF_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    out = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300, check=True).stdout
    assert out.startswith("LoadError The model owner/some-model could not be loaded: offline mode is on")
    assert "config.json is not in the Hugging Face cache" in out and "hf download owner/some-model --revision v2" in out


def test_cached_hub_model_without_weights_names_them(tmp_path: Path, folder: Path) -> None:
    """A cache as the hub client lays it out, filled by hand: config and tokenizer are there, the weights are not."""
    snapshot = tmp_path / "hub" / "models--owner--m" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (snapshot / name).write_bytes((folder / name).read_bytes())
    program = (
        "from modelwright.loading import *\n"
        "source = resolve_model('owner/m', offline=True)\n"
        "print(read_config(source)['model_type'])\n"
        "try: load_model(source)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    environment = {
        "HF_HOME": str(tmp_path),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": ":".join(sys.path),
        "OMP_NUM_THREADS": "1",
    }
    out = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300, check=True).stdout
    assert out.startswith("llama\nLoadError") and "missing in the cache: model.safetensors" in out


def test_reading_a_config_imports_neither_torch_nor_transformers(folder: Path) -> None:
    program = (
        "import sys; from modelwright.loading import *\n"
        "check_causal_lm(read_config(resolve_model(sys.argv[1])))\n"
        "print([name for name in ('torch', 'transformers', 'huggingface_hub') if name in sys.modules])\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["BertForMaskedLM"], "model_type": "bert"},
        {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": True},
        {"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"},
        {"model_type": "vit"},
        {},
    ],
)
def test_not_causal(config: dict[str, object]) -> None:
    with pytest.raises(LoadError, match="causal language model"):
        check_causal_lm(config, "x")


def test_causal() -> None:
    for config in (
        {"architectures": ["GPT2LMHeadModel"]},
        {"architectures": ["Qwen3ForCausalLM"]},
        {"model_type": "llama"},
    ):
        check_causal_lm(config)


@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff"])
def test_damaged_config(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(LoadError, match=r"config\.json of"):
        read_config(resolve_model(str(tmp_path)))


def test_pickled_weights_are_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(LoadError, match=r"lacks the safetensors weights model\.safetensors"):
        load_model(resolve_model(str(tmp_path)))
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(LoadError, match=r"pickled weights \(pytorch_model.bin\).*refused"):
        load_model(resolve_model(str(tmp_path)))


def test_torn_weights_and_missing_shards(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(LoadError, match="could not be loaded"):
        load_model(resolve_model(str(tmp_path)))
    (tmp_path / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").touch()
    assert missing_weight_files(tmp_path) == ["model-2.safetensors"]
    with pytest.raises(LoadError, match=r"lacks the safetensors weights model-2\.safetensors"):
        load_model(resolve_model(str(tmp_path)))


def test_weights_that_lack_a_tensor_are_not_filled_with_random_numbers(tmp_path: Path) -> None:
    save_model(tmp_path, random_llama(num_hidden_layers=1))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(LoadError, match=r"lack 9 tensors .*model\.layers\.1"):
        load_model(resolve_model(str(tmp_path)))


def test_remote_code_only_by_exact_name(folder: Path) -> None:
    with pytest.raises(UsageError, match="name exactly the model"):
        load_model(resolve_model(str(folder)), trust_remote_code="owner/other")


def test_wrong_arguments_and_missing_bitsandbytes(folder: Path) -> None:
    source = resolve_model(str(folder))
    with pytest.raises(UsageError, match="float32, bfloat16, float16"):
        load_model(source, dtype="fp8")
    with pytest.raises(UsageError, match="nf4, int8"):
        load_model(source, quantisation="int2")
    if "bitsandbytes" not in sys.modules:
        try:
            import bitsandbytes  # noqa: F401
        except ImportError:
            with pytest.raises(LoadError, match="needs the package bitsandbytes"):
                load_model(source, quantisation="nf4")


@pytest.mark.parametrize("tied", [True, False])
def test_parameter_count_equals_the_real_model(tied: bool) -> None:
    model = random_llama(tie_word_embeddings=tied)
    assert count_parameters(model.config.to_dict()) == sum(parameter.numel() for parameter in model.parameters())
    with pytest.raises(LoadError, match="'no_such_type'"):
        count_parameters({"model_type": "no_such_type"})


def test_tokenizer_ids_must_have_rows(folder: Path) -> None:
    check_tokenizer(byte_tokenizer(), 260)
    with pytest.raises(LoadError, match="ids up to 259 but the model has 259 embedding rows"):
        check_tokenizer(byte_tokenizer(), 259)
    (folder.parent / "bare").mkdir()
    (folder.parent / "bare" / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(LoadError, match="tokenizer of"):
        load_tokenizer(resolve_model(str(folder.parent / "bare")))
