"""The forecast against the figures of the requirements (section 11.1), its suggestions, and a measured training
step.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.artifacts import MemoryForecastDocument, MemoryMeasured
from modelwright.memory import GIB, MEASURED_FILE, MemoryRequest, forecast, kv_bytes, record_measured, suggest
from modelwright.model_shape import ModelShape


def llama(layers: int, hidden: int, feed_forward: int, vocabulary: int, heads: int, kv_heads: int) -> ModelShape:
    return ModelShape("llama", layers, hidden, feed_forward, vocabulary, heads, kv_heads, hidden // heads, 2048, False)


TINY_LLAMA = llama(22, 2048, 5632, 32000, 32, 4)
LLAMA_2_7B = llama(32, 4096, 11008, 32000, 32, 32)
LLAMA_3_8B = llama(32, 4096, 14336, 128256, 32, 8)


@pytest.mark.parametrize(
    ("shape", "activations", "recompute", "logits", "cache"),
    [(TINY_LLAMA, 5.5, 2.8, 7.8, 1.4), (LLAMA_2_7B, 16.0, 5.4, 7.8, 32.0), (LLAMA_3_8B, 16.0, 7.0, 31.3, 8.0)],
    ids=["TinyLlama", "Llama-2-7B", "Llama-3-8B"],
)
def test_starting_figures_at_64k(shape: ModelShape, activations: float, recompute: float, logits: float, cache: float) -> None:
    predicted = forecast(MemoryRequest(shape, 65536, loss_chunk=None, kv_tokens=65536))
    assert predicted.part("activations") / GIB == pytest.approx(activations, abs=0.05)
    assert predicted.part("recompute") / GIB == pytest.approx(recompute, abs=0.05)
    assert predicted.part("logits") / GIB / 3 == pytest.approx(logits, abs=0.05)  # the figure is the logits alone
    assert predicted.part("kv") / GIB == pytest.approx(cache, abs=0.05)


def test_kv_formula() -> None:
    assert kv_bytes(TINY_LLAMA, 1000, 3, 16) == 2 * 22 * 4 * 64 * 1000 * 3 * 2
    assert kv_bytes(TINY_LLAMA, 1000, bits=4) * 4 == kv_bytes(TINY_LLAMA, 1000)
    assert kv_bytes(TINY_LLAMA, 1000, bits=4.5) == 2 * 22 * 4 * 64 * 1000 * 4.5 / 8


def test_parts_and_margin_add_up() -> None:
    request = MemoryRequest(
        TINY_LLAMA, 4096, batch=2, lora_rank=16, train_embeddings=True, train_norms=True, teacher=TINY_LLAMA, runtime_bytes=GIB
    )
    predicted = forecast(request)
    rest = sum(part.bytes for part in predicted.parts if part.name != "margin")
    assert predicted.part("margin") == int(0.1 * rest) and predicted.total_bytes == rest + predicted.part("margin")
    assert predicted.part("adapters") == TINY_LLAMA.lora_parameters(16) * 16
    assert predicted.part("trained") == (2 * 32000 * 2048 + 45 * 2048) * 16
    assert predicted.part("weights") == TINY_LLAMA.parameters() * 2
    assert predicted.fits(predicted.total_bytes) and not predicted.fits(predicted.total_bytes - 1)
    assert "GiB" in predicted.table()
    MemoryForecastDocument.model_validate(predicted.as_dict())


def test_number_formats() -> None:
    weights = {
        name: forecast(MemoryRequest(TINY_LLAMA, 128, weight_format=name)).part("weights") for name in ("float32", "bfloat16", "nf4")
    }  # type: ignore[arg-type]
    count = TINY_LLAMA.parameters()
    assert weights == {"float32": 4 * count, "bfloat16": 2 * count, "nf4": int(0.55 * count)}
    whole = forecast(MemoryRequest(TINY_LLAMA, 128, train_all=True, compute_format="float32"))
    assert whole.part("optimizer") == 12 * count and whole.part("trained") == 0


@pytest.mark.parametrize("wrong", [{"length": 0}, {"batch": 0}, {"loss_chunk": 0}, {"kv_bits": 0}])
def test_sizes_below_one_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        forecast(MemoryRequest(**{"shape": TINY_LLAMA, "length": 128, **wrong}))  # type: ignore[arg-type]


def test_nothing_is_suggested_when_it_fits() -> None:
    assert suggest(MemoryRequest(TINY_LLAMA, 2048), 80 * GIB) == []


def test_the_least_harmful_change_comes_first() -> None:
    whole = MemoryRequest(TINY_LLAMA, 65536, lora_rank=16, loss_chunk=None)
    offers = suggest(whole, 20 * GIB)
    assert offers[0].change == "compute the loss in chunks of 1024 tokens"
    assert "tokens" in offers[-1].change and offers[-1].request.length < 65536
    dense = replace(whole, loss_chunk=1024, checkpointing=False, length=8192)
    assert "checkpointing" in suggest(dense, 8 * GIB)[0].change
    batched = MemoryRequest(TINY_LLAMA, 16384, batch=4)
    assert suggest(batched, 11 * GIB)[0].change.startswith("batch 2 instead of 4")


def test_several_changes_together_when_no_single_one_is_enough() -> None:
    request = MemoryRequest(LLAMA_3_8B, 65536, batch=4, lora_rank=64, train_embeddings=True, checkpointing=False, loss_chunk=None)
    (offer,) = suggest(request, 24 * GIB)
    assert offer.total_bytes <= 24 * GIB and offer.change.count(",") >= 2
    assert suggest(request, GIB // 2) == []  # not even the 4-bit weights fit


@given(
    length=st.integers(1, 1 << 17),
    batch=st.integers(1, 8),
    rank=st.integers(0, 64),
    limit=st.integers(1, 64),
    checkpointing=st.booleans(),
    chunk=st.sampled_from([None, 256, 1024]),
)
def test_every_suggestion_really_fits(length: int, batch: int, rank: int, limit: int, checkpointing: bool, chunk: int | None) -> None:
    request = MemoryRequest(TINY_LLAMA, length, batch=batch, lora_rank=rank, checkpointing=checkpointing, loss_chunk=chunk)
    for offer in suggest(request, limit * GIB):
        assert forecast(offer.request).total_bytes == offer.total_bytes <= limit * GIB
        assert offer.request != request and offer.request.length <= length


def test_predicted_against_measured_is_kept(tmp_path: Path) -> None:
    predicted = forecast(MemoryRequest(TINY_LLAMA, 2048))
    document = record_measured(tmp_path, predicted, predicted.total_bytes * 2, source="VmHWM")
    assert document["error"] == -0.5
    assert json.loads((tmp_path / MEASURED_FILE).read_text()) == document
    MemoryMeasured.model_validate(document)


MEASURE = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from modelwright.hardware import peak_rss_bytes, reset_peak_rss, return_freed_blocks
from modelwright.memory import MemoryRequest, forecast
from modelwright.model_shape import ModelShape
checkpointing, keeps, length = sys.argv[1] == "True", sys.argv[2] == "True", int(sys.argv[3])
if not keeps:
    assert return_freed_blocks()
torch.set_num_threads(1)
config = LlamaConfig(hidden_size=256, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2,
intermediate_size=688,
                     vocab_size=2000, max_position_embeddings=8192, tie_word_embeddings=True,
                     attn_implementation="sdpa")
ids = torch.randint(0, 2000, (1, 64))
warm = LlamaForCausalLM(config)
warm(input_ids=ids, labels=ids).loss.backward()
del warm
model = LlamaForCausalLM(config)
model.train()
if checkpointing:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
model = get_peft_model(model, LoraConfig(r=8, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
import gc; gc.collect()
reset_peak_rss()
base = peak_rss_bytes()
ids = torch.randint(0, 2000, (1, length))
for _ in range(2):
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
request = MemoryRequest(ModelShape.from_config(config.to_dict()), length, compute_format="float32",
weight_format="float32",
                        checkpointing=checkpointing, loss_chunk=None, keeps_freed=keeps)
predicted = forecast(request)
parts = sum(predicted.part(name) for name in ("activations", "recompute", "logits", "heap"))
print(parts / (peak_rss_bytes() - base))
"""


@pytest.mark.slow
@pytest.mark.parametrize("keeps", [False, True], ids=["blocks returned", "blocks kept"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["nothing recomputed", "recomputed"])
def test_activations_of_a_real_step(checkpointing: bool, keeps: bool) -> None:
    """Activations, logits and what the C library keeps, against what two real backward passes on a CPU take."""
    pytest.importorskip("transformers")
    command = [sys.executable, "-c", MEASURE, str(checkpointing), str(keeps), "4096"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0.75 <= float(done.stdout) <= 1.35
