"""Which windows of text a rung trains on and is evaluated on.

The dataset is encoded once. A fixed part of its documents is held out for evaluation; the rest is packed anew for each
rung, with documents isolated from each other and a share of the tokens at the base length, which protects short
context. The order of windows is drawn from the seed alone, so a resumed rung sees exactly what an uninterrupted one
would.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from modelwright.data.encoding import EncodedDocument, encode_record
from modelwright.data.packing import PackedDataset, PackingReport, pack
from modelwright.data.references import parse_reference
from modelwright.data.sources import iterate_records
from modelwright.errors import LoadError
from scaler_wizard.resolved import ResolvedJob, RungPlan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HELD_OUT_SHARE = 0.1  # of the tokens, about at most; always at least one document
PIECES = 8  # evaluation reads from about this many places
POOL_FACTOR = 2  # records, in seeded order, are encoded until this many times the tokens of the hungriest rung are there
MOST_RECORDS = 1_000_000  # read from the beginning of a dataset; the order within is drawn from the seed


@dataclass(frozen=True)
class TextPool:
    """Encoded documents: those to train on, and those kept for evaluation. `complete` is false when reading stopped
    early.
    """

    train: tuple[EncodedDocument, ...]
    held_out: tuple[EncodedDocument, ...]
    complete: bool

    @property
    def tokens(self) -> int:
        return sum(len(document) for document in self.train)

    def summary(self) -> dict[str, Any]:
        return {
            "documents": len(self.train),
            "tokens": self.tokens,
            "held_out_documents": len(self.held_out),
            "held_out_tokens": sum(len(document) for document in self.held_out),
            "whole_dataset": self.complete,
        }


def load_pool(job: ResolvedJob, tokenizer: PreTrainedTokenizerBase) -> TextPool:
    """Read and encode the job's dataset.

    Raises LoadError when the dataset cannot be read, is empty, or leaves nothing to train on beside one held-out
    document.
    """
    reference = parse_reference(job.dataset.reference)
    records = list(islice(iterate_records(reference, offline=job.offline), MOST_RECORDS + 1))
    complete = len(records) <= MOST_RECORDS
    Random(f"pool:{job.seed}").shuffle(records)
    trained = max(tokens_of(rung) for rung in job.rungs)
    needed = max(POOL_FACTOR * trained, job.evaluation.eval_tokens / HELD_OUT_SHARE)
    documents: list[EncodedDocument] = []
    held = 0
    for record in records[:MOST_RECORDS]:
        if held >= needed:
            complete = False
            break
        document = encode_record(record, tokenizer)
        if len(document) > 1:
            documents.append(document)
            held += len(document)
    if not documents:
        raise LoadError(f"The dataset {job.dataset.reference} has no usable records; give a file with at least two rows of text.")
    piece = max(job.rungs[-1].length, job.evaluation.eval_tokens // PIECES)
    train, held_out = hold_out(documents, job.evaluation.eval_tokens, piece, job.seed)
    if not train or not held_out:
        raise LoadError(
            f"The dataset {job.dataset.reference} has one short record only; at least two are needed, one of them for evaluation."
        )
    return TextPool(tuple(train), tuple(held_out), complete)


def tokens_of(rung: RungPlan) -> int:
    """Tokens that a rung trains on, padding included."""
    return rung.steps * rung.micro_batch_size * rung.gradient_accumulation * rung.length


def hold_out(
    documents: Sequence[EncodedDocument], wanted: int, piece: int, seed: int
) -> tuple[list[EncodedDocument], list[EncodedDocument]]:
    """Split into (train, held out): in seeded order until `wanted` tokens or a tenth of all tokens is held out.

    A text much longer than `piece` tokens gives up its last `piece` tokens and trains with the rest, so that the evaluation
    reads from many documents; other documents are held out whole, and the last of them always trains.
    """
    total = sum(len(document) for document in documents)
    limit = min(wanted, HELD_OUT_SHARE * total)
    order = list(range(len(documents)))
    Random(f"held-out:{seed}").shuffle(order)
    train = {index: documents[index] for index in order}
    held: list[EncodedDocument] = []
    tokens = 0
    for index in order:
        document = documents[index]
        share = min(piece, len(document) // 10) if len(documents) == 1 else piece
        if document.shape == "text" and share >= 2 and len(document) > 2 * share:
            train[index], part = _cut(document, len(document) - share)
        elif len(train) > 1 and len(document) <= total / 2 and (not held or tokens + len(document) <= 2 * limit):
            part = train.pop(index)
        else:
            continue
        held.append(part)
        tokens += len(part)
        if tokens >= limit:
            break
    return [train[index] for index in sorted(train)], held


def _cut(document: EncodedDocument, at: int) -> tuple[EncodedDocument, EncodedDocument]:
    """A document as two, before and from token `at`."""
    parts = ((document.input_ids[:at], document.labels[:at]), (document.input_ids[at:], document.labels[at:]))
    first, second = (EncodedDocument(array("i", ids), array("i", labels), "text", document.where) for ids, labels in parts)
    return first, second


class RungWindows(Dataset[dict[str, torch.Tensor]]):
    """Exactly the windows one rung trains on, in order: item i is int64 tensors [length] named input_ids, position_ids,
    labels.

    When the packed windows run out they are taken again in a newly drawn order.
    """

    def __init__(self, packed: PackedDataset, count: int, seed: int) -> None:
        self.packed = packed
        self.order = repeated_order(len(packed), count, seed)

    @property
    def report(self) -> PackingReport:
        return self.packed.report

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.packed[self.order[index]]


def repeated_order(windows: int, count: int, seed: int) -> list[int]:
    """`count` indices below `windows`: whole passes, each in its own order drawn from `seed`."""
    order: list[int] = []
    epoch = 0
    while len(order) < count:
        indices = list(range(windows))
        Random(f"order:{seed}:{epoch}").shuffle(indices)
        order.extend(indices)
        epoch += 1
    return order[:count]


def training_windows(pool: TextPool, job: ResolvedJob, rung: RungPlan, pad_id: int) -> RungWindows:
    """Pack the pool for `rung`: windows of its length, `native_fraction` of the tokens at the base length."""
    base = job.scaling.base_context
    longer = rung.length > base
    packed = pack(
        pool.train,
        rung.length,
        pad_id=pad_id,
        seed=job.seed,
        native_length=base if longer else None,
        native_share=rung.native_fraction if longer else 0.0,
        join_text=not job.training.pack,
    )
    count = rung.steps * rung.micro_batch_size * rung.gradient_accumulation
    return RungWindows(packed, count, job.seed + rung.index)


def evaluation_texts(pool: TextPool, tokenizer: PreTrainedTokenizerBase, length: int, tokens: int) -> list[str]:
    """Held-out texts that each fill `length` tokens, about `tokens` in all and at least one.

    Documents that are long enough are used as they are; shorter ones are joined, an empty line between them. When
    everything held out is shorter than `length`, it is one text.
    """
    wanted = max(1, tokens // length)
    long = [document for document in pool.held_out if len(document) >= length]
    texts = [_text_of(document, tokenizer) for document in long[:wanted]]
    parts: list[str] = []
    held = 0
    for document in pool.held_out:
        if len(texts) >= wanted:
            break
        if len(document) >= length:
            continue
        parts.append(_text_of(document, tokenizer))
        held += len(document)
        if held >= length + len(parts):
            texts.append("\n\n".join(parts))
            parts, held = [], 0
    if not texts:
        texts.append("\n\n".join(parts))
    return texts


def _text_of(document: EncodedDocument, tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(list(document.input_ids), skip_special_tokens=False))
