"""The tokenizer of the tiny models: byte-level BPE, 1,024 entries, trained here and deterministic from its text.

Digits are split before merges are learnt, so every number is a row of single digits: that is what makes copying a
number a copy of tokens. The two ChatML marks and the two labels ⓪ and ① are single tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE = 1024
END_OF_TEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
PAD = "<|pad|>"
NEGATIVE = "⓪"
POSITIVE = "①"
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END, PAD)
LABEL_TOKENS = (NEGATIVE, POSITIVE)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = VOCABULARY_SIZE, max_length: int = 512) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE on `texts` and wrap it for transformers.

    Arguments: `vocabulary_size` in entries (special tokens, labels and the 256 bytes included), `max_length` in
    tokens, recorded as `model_max_length`. Raises ValueError when the vocabulary has no room for bytes and special
    tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    smallest = 256 + len(SPECIAL_TOKENS) + len(LABEL_TOKENS)
    if vocabulary_size < smallest:
        raise ValueError(f"a vocabulary of {vocabulary_size} entries is too small; bytes and special tokens alone need {smallest}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[*SPECIAL_TOKENS, *LABEL_TOKENS],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # The labels are answers: they must survive decoding with skip_special_tokens, so they are added tokens but not
    # special ones.
    tokenizer.add_tokens([AddedToken(label, special=False, normalized=False) for label in LABEL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=IM_END,
        pad_token=PAD,
        additional_special_tokens=[IM_START],
        model_max_length=max_length,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
