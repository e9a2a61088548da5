"""A real model that says exactly what a test needs: a Llama whose next token depends on its last one alone.

Attention and feed-forward layers are zero, the embedding is the identity, and the output layer holds the successor of every token.
A script is a chain of pieces; every piece is a token of its own, so that token borders fall where the test wants them. The last
character of a prompt chooses the script; the chat template ends with the last character of the newest message, so a chat chooses it
the same way. Any temperature follows the chain (its logit leads by `SCALE`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

CHAT_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{{ messages[-1]['content'][-1:] }}{% endif %}"
)
END = "<|im_end|>"
SCALE = 40.0
SELF_TEST = {"o": ("Hi", " you")}
"""The server's self-test says `Hello`: a model without a script for its last letter does not pass."""


def save_script_model(
    folder: Path,
    scripts: Mapping[str, Sequence[str | bytes]],
    *,
    context: int = 512,
    special: Sequence[str] = (),
    template: str = CHAT_TEMPLATE,
) -> Path:
    """A model folder. scripts: last character of the prompt → the pieces of the answer, which ends by itself after the last.

    A piece is text, or bytes for one byte of a character. Every piece may stand in one place of one script only, since a token has
    one successor; but a script whose last piece equals its first runs for ever. special: pieces that are special tokens.
    """
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    nul = _bytes_backwards()[0]  # the readers of GGUF want a merge; no text of ours has this one
    vocabulary = {piece: index for index, piece in enumerate([*alphabet, nul + nul])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[(nul, nul)]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token=END,
        additional_special_tokens=["<|im_start|>", *special],
        chat_template=template,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    pieces = sorted({piece for script in scripts.values() for piece in script if isinstance(piece, str)} - set(special))
    wrapped.add_tokens([AddedToken(piece, normalized=False) for piece in pieces if len(piece) > 1])
    ids = wrapped.get_vocab()
    byte_ids = {bytes([byte]): ids[character] for character, byte in _bytes().items()}

    def id_of(piece: str | bytes) -> int:
        return byte_ids[piece] if isinstance(piece, bytes) else ids[piece] if piece in ids else byte_ids[piece.encode()]

    successor: dict[int, int] = {}
    for first, script in scripts.items():
        chain = [id_of(first.encode()), *map(id_of, script), ids[END]]
        if len(script) > 1 and script[0] == script[-1]:
            chain = chain[:-1]
        for index, after in pairwise(chain):
            assert successor.setdefault(index, after) == after, f"script {first!r}: a piece that stands elsewhere too"
    size = max(ids.values()) + 1
    width = -(-size // 64) * 64
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=width,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=context,
            tie_word_embeddings=False,
            bos_token_id=ids["<|endoftext|>"],
            eos_token_id=ids[END],
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.zero_()
        model.model.embed_tokens.weight[:, :size] = torch.eye(size)
        for index in ids.values():
            model.lm_head.weight[successor.get(index, ids[END]), index] = SCALE / width**0.5
    model.generation_config.eos_token_id = ids[END]
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def _bytes() -> dict[str, int]:
    return {character: byte for byte, character in _bytes_backwards().items()}


def _bytes_backwards() -> dict[int, str]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return dict(bytes_to_unicode())
