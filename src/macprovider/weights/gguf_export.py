"""A model folder as one GGUF file: the safetensors read tensor by tensor, one in memory at a time."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from macprovider.weights import gguf_tokenizer
from macprovider.weights.gguf_config import ExportError, GgufModel, describe
from macprovider.weights.gguf_tokenizer import GgufTokenizer, read_tokenizer
from macprovider.weights.safetensors_header import TensorEntry, read_header
from modelwright.errors import UsageError, storage_error
from modelwright.files import fsync_directory, read_json

if TYPE_CHECKING:
    import numpy
    from gguf import GGMLQuantizationType, GGUFWriter

Kind = Literal["f32", "f16", "q8_0"]
KINDS: tuple[Kind, ...] = ("f32", "f16", "q8_0")
Q8_BLOCK = 32
"""Weights that share a scale in q8_0; a matrix whose rows are no multiple of it is written as f16."""

_FILE_TYPE = {"f32": 0, "f16": 1, "q8_0": 7}
_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTSIDE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
_QK_NORMS = frozenset({"attn_q_norm", "attn_k_norm"})
_IN_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_FREQUENCIES = "rope_freqs.weight"


@dataclass(frozen=True)
class Written:
    """What was written. bytes: of the file."""

    tensors: int
    bytes: int


@dataclass(frozen=True)
class _Planned:
    """A tensor on its way. heads: of q or k rows that must be reordered, 0 for none."""

    name: str
    path: Path
    entry: TensorEntry
    kind: Kind
    heads: int


def export_gguf(folder: Path, out: Path, *, name: str, kind: Kind = "f16", by_token: bool = False) -> Written:
    """Write the model in `folder` to `out`, whole or not at all. kind: of the matrices; norms, biases and factors stay f32.
    by_token: for llama-server's streams, see `gguf_tokenizer.by_token`.

    Raises ExportError for a model that GGUF cannot say, UsageError, DamagedFileError, StorageError; `out` is then as it was.
    """
    if kind not in KINDS:
        raise UsageError(f"--type: found {kind!r}; allowed: {', '.join(KINDS)}.")
    if out.is_dir():
        raise UsageError(f"--out: found the folder {out}; allowed: the path of a file.")
    model, tokenizer, planned = _prepared(folder, kind, name)
    if by_token:
        tokenizer = gguf_tokenizer.by_token(tokenizer)
    temporary = out.with_name(f".{out.name[:200]}.{os.getpid()}-0.tmp")
    try:
        try:
            _write(temporary, model, tokenizer, planned, name, kind)
            size = temporary.stat().st_size
            os.replace(temporary, out)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        fsync_directory(out.absolute().parent)
    except OSError as error:
        raise storage_error(error, out, "write") from error
    return Written(len(planned) + bool(model.frequency_divisors), size)


def check_exportable(folder: Path, name: str, kind: Kind = "f16") -> None:
    """Raise what `export_gguf` would raise for the model itself, from its headers and its tokenizer; nothing is written."""
    _prepared(folder, kind, name)


def _prepared(folder: Path, kind: Kind, name: str) -> tuple[GgufModel, GgufTokenizer, list[_Planned]]:
    if importlib.util.find_spec("gguf") is None:
        raise ExportError("The package gguf is not installed; install it by pip install 'modelwright[llamacpp]'.")
    model = describe(read_json(folder / "config.json"), name)
    return model, read_tokenizer(folder, model.shape.vocabulary, name), _plan(folder, model, kind, name)


def gguf_name(name: str) -> str:
    """GGUF's name of a tensor of transformers, "" for one that it does not have."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    match = _IN_LAYER.fullmatch(name)
    return f"blk.{match[1]}.{_NAMES[match[2]]}.{match[3]}" if match and match[2] in _NAMES else ""


def _plan(folder: Path, model: GgufModel, kind: Kind, name: str) -> list[_Planned]:
    """The tensors in the order in which they are written. Raises ExportError for one that has no place in GGUF or is missing."""
    planned = []
    for path in sorted(folder.glob("*.safetensors")):
        for entry in read_header(path):
            if entry.name.endswith("rotary_emb.inv_freq") or (entry.name == "lm_head.weight" and model.shape.tied):
                continue
            target = gguf_name(entry.name)
            if not target:
                raise ExportError(
                    f"{name}: found the tensor {entry.name}; allowed for GGUF: the tensors of a plain {model.architecture} model."
                )
            heads = 0
            if model.interleaved and re.search(r"\.attn_[qk]\.(weight|bias)$", target):
                heads = model.shape.heads if ".attn_q." in target else model.shape.kv_heads
            planned.append(_Planned(target, path, entry, stored_kind(entry, kind), heads))
    there = {entry.name for entry in planned}
    needed = {f"blk.{layer}.{part}.weight" for layer in range(model.shape.layers) for part in _NAMES.values() if part not in _QK_NORMS}
    if model.shape.qk_norm:
        needed |= {f"blk.{layer}.{part}.weight" for layer in range(model.shape.layers) for part in _QK_NORMS}
    needed |= {"token_embd.weight", "output_norm.weight"} | (set() if model.shape.tied else {"output.weight"})
    if missing := sorted(needed - there):
        raise ExportError(f"{name}: its weights lack {len(missing)} tensors (first: {missing[0]}); fetch the model again.")
    return sorted(planned, key=lambda tensor: _place(tensor.name))


def _place(name: str) -> tuple[int, int, str]:
    """token_embd first, then layer by layer, then what follows the layers."""
    layer = re.match(r"blk\.(\d+)\.", name)
    return (1, int(layer[1]), name) if layer else (0 if name.startswith("token_embd") else 2, 0, name)


def stored_kind(entry: TensorEntry, kind: Kind) -> Kind:
    """The type in which a tensor is written where matrices are `kind`."""
    if len(entry.shape) < 2:
        return "f32"
    return "f16" if kind == "q8_0" and entry.shape[-1] % Q8_BLOCK else kind


def _write(path: Path, model: GgufModel, tokenizer: GgufTokenizer, planned: list[_Planned], name: str, kind: Kind) -> None:
    import numpy
    from gguf import GGUFWriter

    writer = GGUFWriter(path, model.architecture)
    try:
        _add_metadata(writer, model, tokenizer, name, kind)
        if model.frequency_divisors:
            divisors = numpy.asarray(model.frequency_divisors, numpy.float32)
            writer.add_tensor_info(_FREQUENCIES, divisors.shape, divisors.dtype, divisors.nbytes)
        for tensor in planned:
            shape, dtype, size, raw = _announced(tensor)
            writer.add_tensor_info(tensor.name, shape, dtype, size, raw_dtype=raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if model.frequency_divisors:
            writer.write_tensor_data(divisors)
        for tensor in planned:
            writer.write_tensor_data(_converted(tensor, name))
        writer.flush()
        for file in writer.fout or ():
            os.fsync(file.fileno())
    finally:
        writer.close()


def _add_metadata(writer: GGUFWriter, model: GgufModel, tokenizer: GgufTokenizer, name: str, kind: Kind) -> None:
    writer.add_type("model")
    writer.add_name(Path(name).name or name)
    writer.add_file_type(_FILE_TYPE[kind])
    if kind == "q8_0":
        writer.add_quantization_version(2)
    for key, value in model.metadata.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list([token.encode() if isinstance(token, str) else token for token in tokenizer.tokens])
    writer.add_token_types([int(kind) for kind in tokenizer.types])
    writer.add_token_merges(list(tokenizer.merges))
    for which, number in tokenizer.special.items():
        writer.add_uint32(f"tokenizer.ggml.{which}_token_id", number)
    writer.add_add_bos_token(tokenizer.add_bos)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _announced(tensor: _Planned) -> tuple[tuple[int, ...], Any, int, GGMLQuantizationType | None]:
    """(shape, dtype, bytes, quantisation) of a tensor before its data is read. Shapes of quantised ones are in bytes."""
    import numpy
    from gguf import GGMLQuantizationType, quant_shape_to_byte_shape

    shape = tensor.entry.shape
    if tensor.kind == "q8_0":
        packed = quant_shape_to_byte_shape(shape, GGMLQuantizationType.Q8_0)
        return packed, numpy.dtype(numpy.uint8), int(numpy.prod(packed)), GGMLQuantizationType.Q8_0
    dtype = numpy.dtype(numpy.float32 if tensor.kind == "f32" else numpy.float16)
    return shape, dtype, tensor.entry.elements * dtype.itemsize, None


def _converted(tensor: _Planned, name: str) -> numpy.ndarray[Any, Any]:
    import numpy
    from gguf import GGMLQuantizationType, quantize

    values = read_tensor(tensor.path, tensor.entry, name)
    if tensor.heads:
        values = interleave(values, tensor.heads)
    if tensor.kind == "f32":
        return numpy.ascontiguousarray(values)
    if tensor.kind == "q8_0":
        return quantize(numpy.ascontiguousarray(values), GGMLQuantizationType.Q8_0)
    limit = float(numpy.finfo(numpy.float16).max)
    if values.size and float(numpy.abs(values).max()) > limit:
        raise ExportError(
            f"{name}: the tensor {tensor.entry.name} has values beyond {limit:g}, the largest of f16; export it by --type f32."
        )
    return numpy.ascontiguousarray(values.astype(numpy.float16))


def read_tensor(path: Path, entry: TensorEntry, name: str) -> numpy.ndarray[Any, Any]:
    """One tensor of a safetensors file as float32. Raises ExportError for integers and 8-bit floats."""
    import numpy

    types = {"F32": numpy.float32, "F16": numpy.float16, "BF16": numpy.uint16, "F64": numpy.float64}
    if entry.dtype not in types:
        raise ExportError(f"{name}: found the tensor {entry.name} of type {entry.dtype}; allowed for GGUF: {', '.join(types)}.")
    raw = numpy.fromfile(path, dtype=types[entry.dtype], count=entry.elements, offset=entry.start).reshape(entry.shape)
    if entry.dtype == "BF16":  # the upper half of a float32
        return (raw.astype(numpy.uint32) << 16).view(numpy.float32)
    return raw.astype(numpy.float32, copy=False)


def interleave(values: numpy.ndarray[Any, Any], heads: int) -> numpy.ndarray[Any, Any]:
    """Rows of q or k, [H·h, ...], so that the two of a rotary pair are neighbours: row i and i + h/2 of a head become 2i and 2i + 1."""
    rows = values.shape[0] // heads
    return values.reshape(heads, 2, rows // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
