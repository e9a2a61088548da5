"""Where lines and reviews come from: files cut into ranges, held-out library files, the hub. (specs/medic.md, 6.1 and 8.1)

Each source says what it gives to every split, in order; `data` takes the wanted split from it and keeps the splits apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args

from cachemedicpp.config.settings import find_file
from modelwright.errors import LoadError
from modelwright.files import sha256_bytes

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
SHARES = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}
"""Which part of its lines a file gives to each split."""

LIBRARY = "stdlib://held-out"
"""In place of a text file: the standard library files that the tiny models never trained on, about 1,000 characters a line."""
HUB_TEXT = "hf://Salesforce/wikitext/wikitext-2-raw-v1"
HUB_REVIEWS = "hf://stanfordnlp/sst2"
HUB_TUNING_REVIEWS = 2000
_DOCUMENT_CHARACTERS = 1000


class DataUnavailableError(LoadError):
    """Text or reviews that the configuration asks for cannot be had; the command exits with 1."""

    exit_code = 1


@dataclass(frozen=True)
class Review:
    """A review and its label: 0 negative, 1 positive."""

    text: str
    label: int


Item = TypeVar("Item", str, Review)


@dataclass(frozen=True)
class Part(Generic[Item]):
    """What a source gives to one split: its items, the number of the first one, and what a record says about them."""

    kind: Literal["hub", "file", "library"]
    source: str
    source_split: str | None
    first: int
    items: Sequence[Item]
    source_sha256: str | None = None


Parts = dict[Split, Part[Item]]


# ---------------------------------------------------------------------- files


def file_parts(key: str, reference: str, parse: Callable[[str, str], list[Item]]) -> Parts[Item]:
    """The non-empty rows of the file that `key` names, cut by SHARES. Raises DataUnavailableError when it cannot be read."""
    path = find_file(reference)
    if path is None:
        raise DataUnavailableError(
            f"{key} is {reference!r}, and there is no such file beside the configuration, in the working folder or in the package; "
            "correct the path, or leave the key as in configs/medic/tiny.yaml to use the packaged sample."
        )
    content = _content(path, key)
    items = parse(content.decode(), f"{key} {reference}")
    cuts = {split: (int(len(items) * low), int(len(items) * high)) for split, (low, high) in SHARES.items()}
    digest = sha256_bytes(content)
    return {split: Part("file", reference, None, cuts[split][0] + 1, items[slice(*cuts[split])], digest) for split in SPLITS}


def _content(path: Path, key: str) -> bytes:
    try:
        content = path.read_bytes()
        content.decode()
    except OSError as error:
        raise DataUnavailableError(f"{key}: {path} could not be read ({error.strerror or error}); correct its mode or path.") from error
    except UnicodeDecodeError as error:
        raise DataUnavailableError(f"{key}: {path} is not UTF-8 text (byte {error.start}); convert it to UTF-8.") from error
    return content


def text_lines(content: str, where: str) -> list[str]:
    """The non-empty lines, without surrounding white space."""
    return [line.strip() for line in content.split("\n") if line.strip()]


def review_rows(content: str, where: str) -> list[Review]:
    """Reviews of JSON Lines `{"text", "label"}`. Raises DataUnavailableError naming the first line that is none."""
    rows = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataUnavailableError(f"{where}:{number} is not valid JSON ({error.msg}); every line is one object.") from error
        rows.append(_review(row, "text", f"{where}:{number}"))
    return rows


def _review(row: Any, field: str, where: str) -> Review:
    text, label = (row.get(field), row.get("label")) if isinstance(row, dict) else (None, None)
    if not isinstance(text, str) or not text.strip() or type(label) is not int or label not in (0, 1):
        raise DataUnavailableError(f'{where}: a review needs "{field}", a text, and "label", 0 for negative or 1 for positive.')
    return Review(text.strip(), label)


# ---------------------------------------------------------------------- library


def library_parts() -> Parts[str]:
    """The held-out library files in documents of about 1,000 characters, whole files to a split."""
    from modelwright.tiny.corpus import load_corpus

    try:
        corpus = load_corpus()
    except FileNotFoundError as error:
        raise DataUnavailableError(f"data.offline_paths.wikitext2 is {LIBRARY}, and {error}.") from error
    total = sum(len(file.text) for file in corpus.held_out)
    documents: dict[Split, list[str]] = {split: [] for split in SPLITS}
    before = 0
    for file in corpus.held_out:
        place = before / total
        split = next(name for name in reversed(SPLITS) if SHARES[name][0] <= place)
        documents[split] += _documents(file.text)
        before += len(file.text)
    parts: Parts[str] = {}
    first = 1
    for split in SPLITS:
        parts[split] = Part("library", f"{LIBRARY} (Python {corpus.interpreter})", None, first, documents[split], corpus.digest)
        first += len(documents[split])
    return parts


def _documents(text: str) -> list[str]:
    """`text` cut at line ends into pieces of at least 1,000 characters; a shorter rest is left out."""
    documents, piece, size = [], [], 0
    for line in text.splitlines(keepends=True):
        piece.append(line)
        size += len(line)
        if size >= _DOCUMENT_CHARACTERS:
            documents.append("".join(piece).strip())
            piece, size = [], 0
    return [document for document in documents if document]


# ---------------------------------------------------------------------- hub


def hub_text_parts(split: Split) -> Parts[str]:
    """The hub's splits up to and including `split`; later ones are not fetched and stand empty."""
    parts: Parts[str] = {name: Part("hub", HUB_TEXT, name, 1, ()) for name in SPLITS}
    for name in SPLITS[: SPLITS.index(split) + 1]:
        lines = [row["text"].strip() for row in _hub_rows(f"{HUB_TEXT}?split={name}")]
        parts[name] = Part("hub", HUB_TEXT, name, 1, [line for line in lines if line])
    return parts


def hub_review_parts(split: Split) -> Parts[Review]:
    """SST-2 as three splits with labels: `test` is the published validation split, whose own test split has none."""

    def read(source_split: str) -> list[Review]:
        uri = f"{HUB_REVIEWS}?split={source_split}"
        return [_review(row, "sentence", f"{uri} row {number}") for number, row in enumerate(_hub_rows(uri), start=1)]

    training = read("train")
    cut = max(0, len(training) - HUB_TUNING_REVIEWS)
    return {
        "train": Part("hub", HUB_REVIEWS, "train", 1, training[:cut]),
        "validation": Part("hub", HUB_REVIEWS, "train", cut + 1, training[cut:]),
        "test": Part("hub", HUB_REVIEWS, "validation", 1, read("validation") if split == "test" else ()),
    }


def _hub_rows(uri: str) -> list[dict[str, Any]]:
    from modelwright.data.references import parse_reference
    from modelwright.data.sources import iterate_rows

    try:
        return [row for _, row in iterate_rows(parse_reference(uri), False)]
    except LoadError as error:
        raise DataUnavailableError(f"{error} Or set data.use_offline: true to read the files of data.offline_paths.") from error
