from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guild.analytics.weights import CHUNK, EMBEDDINGS, as_numbers, layer_of, opened, sum_of_squares, tensors_of
from helpers.guild_analytics import layered, save_weights
from modelwright.errors import DamagedFileError, MissingFileError, UsageError

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.11.self_attn.q_proj.weight", 11),
        ("transformer.h.0.mlp.c_fc.weight", 0),
        ("gpt_neox.layers.3.attention.dense.weight", 3),
        ("model.embed_tokens.weight", EMBEDDINGS),
        ("transformer.wte.weight", EMBEDDINGS),
        ("transformer.wpe.weight", EMBEDDINGS),
        ("model.norm.weight", None),
        ("lm_head.weight", None),
    ],
)
def test_a_tensor_belongs_to_the_layer_that_its_name_says(name: str, layer: int | None) -> None:
    assert layer_of(name) == layer


def test_every_number_is_read_as_the_library_wrote_it(tmp_path: Path) -> None:
    """One tensor longer than a chunk, one empty, one of a single number, in every type."""
    torch.manual_seed(0)
    written = {}
    for kind in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        word = str(kind).removeprefix("torch.")
        written[f"{word}.long"] = torch.randn(CHUNK + 17).to(kind)
        written[f"{word}.square"] = (torch.randn(3, 5) * 1000).to(kind)
        written[f"{word}.one"] = torch.tensor(0.1).to(kind)
        written[f"{word}.empty"] = torch.empty(0, 4).to(kind)
    tensors = tensors_of(save_weights(tmp_path, written))
    assert set(tensors) == set(written)
    with opened(tensors) as reader:
        for name, tensor in written.items():
            found = [chunk.copy() for chunk in reader.chunks(tensors[name])]
            flat = np.concatenate(found) if found else np.empty(0)
            assert flat.astype(np.float64).tolist() == tensor.double().flatten().tolist(), name
            assert tensors[name].shape == tuple(tensor.shape)


def test_a_sharded_checkpoint_is_the_same_as_one_file(tmp_path: Path) -> None:
    made = layered(2)
    names = list(made)
    one = tensors_of(save_weights(tmp_path / "one", made))
    many = tensors_of(save_weights(tmp_path / "many", made, shards=[names[:3], names[3:]]))
    assert set(one) == set(many) == set(made)
    assert len({tensor.file for tensor in many.values()}) == 2
    with opened(many) as reader:
        for name, array in made.items():
            assert np.concatenate(list(reader.chunks(many[name]))).tolist() == array.ravel().tolist()


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    tensors = tensors_of(save_weights(tmp_path, {"a.weight": np.ones(3, np.float32), "b.ids": np.arange(3)}))
    assert tensors["a.weight"].trained and not tensors["b.ids"].trained
    with opened(tensors) as reader, pytest.raises(UsageError, match=r"found numbers of type I64 in b\.ids; allowed: F64, F32, F16, BF16"):
        next(reader.chunks(tensors["b.ids"]))


@pytest.mark.parametrize("cut", [4, 40, 1, 300])
def test_a_file_that_is_cut_off_is_damaged(tmp_path: Path, cut: int) -> None:
    """Wherever it is cut: in the length, in the header, one byte before its end, in the middle."""
    file = save_weights(tmp_path, layered(2)) / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] if cut == 1 else data[:cut])
    with pytest.raises(DamagedFileError, match=r"model\.safetensors"):
        tensors_of(tmp_path)


def test_no_weights_and_a_missing_shard_are_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="holds no weights as safetensors"):
        tensors_of(tmp_path)
    made = layered(1)
    save_weights(tmp_path, made, shards=[list(made)[:1], list(made)[1:]])
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(MissingFileError, match="model-00002"):
        tensors_of(tmp_path)


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=40))
def test_the_sum_of_squares_is_that_of_exact_arithmetic(values: list[float]) -> None:
    found = sum_of_squares(np.array(values, np.float32))
    assert found == pytest.approx(math.fsum(value * value for value in values), rel=1e-5, abs=1e-30)


def test_a_square_that_float32_cannot_hold_is_no_infinity() -> None:
    assert sum_of_squares(np.array([3e30, 4e30], np.float32)) == pytest.approx(25e60, rel=1e-6)
    assert sum_of_squares(np.array([1.0, np.inf], np.float32)) == math.inf
    assert math.isnan(sum_of_squares(np.array([1.0, np.nan], np.float32)))


def test_every_bfloat16_is_the_upper_half_of_its_float32() -> None:
    bits = np.arange(65536, dtype="<u2")
    ours = as_numbers(bits.tobytes(), "BF16", np.empty(bits.size, np.float32))
    theirs = torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16).float().numpy()
    assert np.array_equal(ours, theirs, equal_nan=True)
