"""What a tiny model can do, measured: bits per byte on held-out files, passkey accuracy by length, sentiment labels.

Bits per byte at a length L is taken over the first L tokens of the same held-out documents, so the lengths can be
compared; beyond the window it shows how the model fails.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from modelwright.tiny import dialogues
from modelwright.tiny.corpus import Corpus
from modelwright.tiny.tokenizer import IM_END, IM_START, NEGATIVE, POSITIVE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEXT_LENGTHS = (128, 512, 1024, 2048)
PASSKEY_LENGTHS = (160, 256, 512, 768, 1024, 2048)
PASSKEY_SAMPLES = 55
SENTIMENT_SAMPLES = 200
EVALUATION_SEED = 20_000
DOCUMENT_CHARACTERS = 9_000


def held_out_documents(corpus: Corpus, characters: int = DOCUMENT_CHARACTERS) -> list[str]:
    """Held-out files cut into documents of so many characters, the shorter rests left out."""
    documents = []
    for file in corpus.held_out:
        for start in range(0, len(file.text) - characters + 1, characters):
            documents.append(file.text[start : start + characters])
    return documents


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """All figures of the model card: `bits_per_byte` and `passkey` keyed by length in tokens, `sentiment_accuracy`
    (0..1).
    """
    say("bits per byte on held-out files")
    figures: dict[str, Any] = {"bits_per_byte": measure_bits_per_byte(model, tokenizer, corpus, TEXT_LENGTHS)}
    say("passkey accuracy by length")
    figures["passkey"] = {
        variant: measure_passkey(model, tokenizer, chat=variant == "chat", lengths=PASSKEY_LENGTHS, samples=PASSKEY_SAMPLES)
        for variant in ("raw", "chat")
    }
    figures["passkey_samples"] = PASSKEY_SAMPLES
    say("sentiment labels")
    figures["sentiment_accuracy"] = measure_sentiment(model, tokenizer, SENTIMENT_SAMPLES)
    figures["sentiment_samples"] = SENTIMENT_SAMPLES
    return figures


def measure_bits_per_byte(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    lengths: tuple[int, ...] = TEXT_LENGTHS,
    characters: int = DOCUMENT_CHARACTERS,
) -> dict[str, float]:
    """Bits per UTF-8 byte over the first L tokens of every held-out document that has as many as the longest length.

    characters: of one document; enough for the longest length.
    """
    from modelwright.probes.sliding_ppl import perplexity

    longest = max(lengths)
    documents = [text for text in held_out_documents(corpus, characters) if len(tokenizer(text, verbose=False)["input_ids"]) >= longest]
    return {str(length): round(perplexity(model, tokenizer, documents, length).bits_per_byte, 4) for length in lengths}


def measure_passkey(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    chat: bool,
    lengths: tuple[int, ...] = PASSKEY_LENGTHS,
    samples: int = PASSKEY_SAMPLES,
) -> dict[str, float]:
    """Passkey accuracy (0..1) at each length in tokens, over `samples` keys spread evenly over the depths; greedy
    decoding.
    """
    from modelwright.probes.passkey import Passkey
    from modelwright.probes.runner import run_probe

    results = run_probe(model, tokenizer, Passkey(), lengths, n=samples, seed=EVALUATION_SEED, variant="chat" if chat else "raw")
    return {str(result.length): round(result.mean, 4) for result in results}


def measure_sentiment(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, samples: int = SENTIMENT_SAMPLES) -> float:
    """The share of fresh reviews, asked one by one in ChatML, whose right label is more probable than the other."""
    import torch

    rng = Random(f"sentiment-{EVALUATION_SEED}")
    labels = [tokenizer.convert_tokens_to_ids(label) for label in (NEGATIVE, POSITIVE)]
    right = 0
    with torch.no_grad():
        for index in range(samples):
            text, positive = dialogues.review(rng)
            prompt = dialogues.LABEL_PROMPTS[index % len(dialogues.LABEL_PROMPTS)].format(text=text)
            ids = tokenizer(f"{IM_START}user\n{prompt}{IM_END}\n{IM_START}assistant\n", return_tensors="pt")["input_ids"]
            logits = model(input_ids=ids).logits[0, -1, labels]
            right += int(logits.argmax()) == int(positive)
    return round(right / samples, 4)
