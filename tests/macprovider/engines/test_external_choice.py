"""Names of engines, and the GGUF file that the llamacpp engine reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from macprovider.codec import Codec
from macprovider.engines.base import fault_of
from macprovider.engines.choice import HERE, NAMES, known_engine, make_engine
from macprovider.engines.external.engine import ExternalEngine
from macprovider.engines.external.llamacpp_log import accelerator_in, cache_in
from macprovider.engines.gguf_file import exported
from macprovider.settings_model import ServeSettings
from macprovider.weights.gguf_tokenizer import TokenType
from modelwright.errors import UsageError
from modelwright.tiny import tiny_model_path

FOLDER = tiny_model_path("modelwright/tiny-0.4m")


def test_every_engine_has_a_name() -> None:
    assert [known_engine(name) for name in HERE] == ["transformers", "openvino", "llamacpp", "vllm", "mlx"]
    assert known_engine("auto") == "auto"
    assert {ServeSettings(model="m", engine=name).engine for name in NAMES} == set(NAMES)
    with pytest.raises(UsageError, match="found 'ollama'; allowed: auto, transformers, openvino, llamacpp, vllm, mlx"):
        known_engine("ollama")


def test_an_engine_of_another_process_tells_its_fault() -> None:
    from helpers.engine_listener import engine_settings

    engine = make_engine("vllm", engine_settings(FOLDER))
    assert isinstance(engine, ExternalEngine) and fault_of(engine) == ""
    engine.fault = "it is gone"
    assert fault_of(engine) == "it is gone"
    assert fault_of(make_engine("transformers", engine_settings(FOLDER))) == ""


def test_llama_servers_file_spells_out_every_part_of_a_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf: Any = pytest.importorskip("gguf")
    monkeypatch.setenv("HOME", str(tmp_path))
    codec = Codec.load(FOLDER, "tiny")
    plain, by_token = exported(FOLDER, "m", "q8_0"), exported(FOLDER, "m", "q8_0", by_token=True)
    assert plain != by_token
    before, after = gguf.GGUFReader(plain), gguf.GGUFReader(by_token)
    kinds = after.fields["tokenizer.ggml.token_type"]
    tokens = after.fields["tokenizer.ggml.tokens"]
    changed = 0
    for number in range(len(tokens.data)):
        spelt, kind = bytes(tokens.parts[tokens.data[number]]), int(kinds.parts[kinds.data[number]][0])
        old = before.fields["tokenizer.ggml.tokens"]
        if spelt != bytes(old.parts[old.data[number]]):
            changed += 1
            assert (spelt, kind) == (codec.token_bytes(number), TokenType.CONTROL)
            with pytest.raises(UnicodeDecodeError):
                spelt.decode("utf-8")
        elif kind == TokenType.NORMAL:
            codec.token_bytes(number).decode("utf-8")  # a whole text of its own
    assert changed >= 128  # single bytes from 0x80 on
    assert [tensor.name for tensor in before.tensors] == [tensor.name for tensor in after.tensors]
    assert all((one.data == two.data).all() for one, two in zip(before.tensors, after.tensors, strict=True))


def test_the_log_tells_the_cache_and_the_device() -> None:
    log = (
        "0.00.009 I llama_model_load: using device CUDA0 (NVIDIA H100 80GB HBM3) (0000:01:00.0) - 79000 MiB free\n"
        "0.00.019 I kv: size =   10.50 MiB (   512 cells,   4 layers,  2/2 seqs), K (q8_0):    5.25 MiB, V (q8_0):    5.25 MiB\n"
        "0.00.020 I kv: size =    1.50 MiB (   512 cells,   1 layers,  2/2 seqs), K (q8_0):    0.75 MiB, V (q8_0):    0.75 MiB\n"
        "0.00.021 I llama_kv_cache: attn_rot_k = 1, n_embd_head_k_all = 64\n"
        "0.00.022 I llama_kv_cache: attn_rot_v = 1, n_embd_head_k_all = 64\n"
    )
    found = cache_in(log)
    assert (found.keys, found.values, found.mebibytes, found.rotated, found.bytes_per_value) == ("q8_0", "q8_0", 12.0, True, 34 / 32)
    assert accelerator_in(log) == "CUDA0 NVIDIA H100 80GB HBM3"
    assert accelerator_in("load_tensors: CPU_Mapped model buffer size = 1.63 MiB") is None
