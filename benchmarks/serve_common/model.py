"""The model that is served: random weights, so that no answer ends early by meaning, and a tokenizer that ships with the project."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from modelwright.tiny import tiny_model_path

SHAPES = {
    "110m": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 9, "num_attention_heads": 16, "num_key_value_heads": 8},
    "60m": {"hidden_size": 768, "intermediate_size": 2112, "num_hidden_layers": 9, "num_attention_heads": 12, "num_key_value_heads": 6},
    "29m": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 9, "num_attention_heads": 8, "num_key_value_heads": 4},
    "3m": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4},
}
CONTEXT = 4096


def _silent(tokenizer: Path, size: int) -> set[int]:
    """Ids whose text is no whole character of its own: special tokens, parts of a character, ids without a token. A server that streams
    text alone shows nothing of them, and its clients could not tell when an answer began.
    """
    from tokenizers import Tokenizer

    known = Tokenizer.from_file(str(tokenizer))
    texts = {index: known.decode([index]) for index in range(size)}
    return {index for index, text in texts.items() if not text.strip() or "\ufffd" in text}


def make_model(folder: Path, shape: str) -> Path:
    """Write a Llama of `SHAPES[shape]` with random weights (seed 0) and the tokenizer of tiny-5m; the folder, made once."""
    if (folder / "model.safetensors").is_file():
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    source = tiny_model_path("tiny-5m")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    ids = {name: config[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], **ids, max_position_embeddings=CONTEXT, tie_word_embeddings=True))
    silent = _silent(source / "tokenizer.json", config["vocab_size"])
    with torch.no_grad():  # tokens that end an answer, or that show nothing of it, are never the most likely ones
        rows = model.get_input_embeddings().weight
        spoken = rows[[index for index in range(len(rows)) if index not in silent]]
        rows[sorted(silent)] = -spoken.mean(0)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(source / name, folder / name)
    return folder
