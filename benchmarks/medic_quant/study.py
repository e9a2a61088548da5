"""The measurements of one model in parts, each kept in a file when it is done, and the rows that are made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from benchmarks.medic_common.subjects import Subject, load_subject, prefill, texts
from benchmarks.medic_common.training import Lesson, Training, as_settings, lessons, new_operator, train_operator
from benchmarks.medic_quant.compare import Point, comparisons, crossed_interval
from benchmarks.medic_quant.latency import PLAIN, step_times
from benchmarks.medic_quant.measure import Exam, Scores, Size, mean_kl, new_exam, scores
from benchmarks.medic_quant.methods import PLACEMENTS, STUDIED, Method, bits_per_value, quantiser, term_bits

from modelwright.files import make_folder, read_json, write_json

Row = dict[str, Any]


class Parts:
    """Finished parts below a folder, one JSON file each. A part that other settings made is measured again."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = make_folder(folder), dict(settings)

    def part(self, name: str, make: Callable[[], Row]) -> Row:
        """The part `name` from its file, else from `make`, then written whole. Raises DamagedFileError for a file that is no JSON."""
        path = self.folder / f"{name}.json"
        if path.exists():
            held = read_json(path)
            if held.get("settings") == self.settings:
                return dict(held["part"])
        made = make()
        write_json(path, {"settings": self.settings, "part": made})
        print(f"{name} done", flush=True)
        return made


class Study:
    """One model. studied: bits that get a repair, and whose answers are generated."""

    def __init__(self, name: str, size: Size, training: Training, folder: Path, studied: Sequence[int] = STUDIED) -> None:
        self.name, self.size, self.training, self.studied = name, size, training, tuple(studied)
        shared = {key: value for key, value in as_settings(training).items() if key != "seed"}
        self.parts = Parts(
            folder / name.rsplit("/", 1)[-1], {"model": name, "size": vars(size), "training": shared, "studied": list(self.studied)}
        )
        self._taught: tuple[int, list[Lesson]] | None = None

    @cached_property
    def subject(self) -> Subject:
        return load_subject(self.name)

    @cached_property
    def test(self) -> Exam:
        return new_exam(self.subject, self.size, "test")

    @cached_property
    def validation(self) -> Exam:
        return new_exam(self.subject, self.size, "validation")

    # --- parts

    def clean(self) -> Scores:
        """The clean cache itself: its perplexity and what it recalls."""
        return self.parts.part("clean", lambda: dict(scores(self.subject, self.test, None)))

    def plain(self, method: Method, bits: int) -> Row:
        """A quantiser without repair, and its mean divergence on validation text."""
        settings = method.settings(bits)

        def make() -> Row:
            damage = quantiser(settings)
            found = scores(self.subject, self.test, damage, greedy=bits in self.studied)
            return {**found, "validation_kl": mean_kl(self.subject, self.validation, damage)}

        return self.parts.part(f"plain-{settings.name}", make)

    def times(self, method: Method, bits: int) -> Row:
        """Milliseconds for a token by way; with D for the studied bits."""
        settings = method.settings(bits)

        def make() -> Row:
            pairs = prefill(self.subject, texts(self.subject, "validation", 1, self.size.prefix))
            operator = new_operator(self.subject, self.training) if bits in self.studied else None
            with one_thread():
                return step_times(self.subject, pairs, settings, operator, self.size.rounds)

        return self.parts.part(f"times-{settings.name}", make)

    def repaired(self, method: Method, bits: int, seed: int) -> Row:
        """The quantiser with D, trained with `seed` on train text that this very quantiser has damaged."""
        settings = method.settings(bits)

        def make() -> Row:
            losses: list[float] = []
            training = replace(self.training, seed=seed)
            if self._taught is None or self._taught[0] != seed:
                self._taught = (seed, lessons(self.subject, training))
            damage = quantiser(settings)
            operator = train_operator(self.subject, damage, training, self._taught[1], lambda step, loss: losses.append(loss))
            return {**scores(self.subject, self.test, damage, operator), "last_losses": losses[-10:]}

        return self.parts.part(f"repaired-{settings.name}-seed{seed}", make)

    # --- rows

    def rows(self, methods: Sequence[Method], widths: Sequence[int], seeds: Sequence[int]) -> tuple[Row, list[Row], list[Row]]:
        """The clean row, one row for each plain setting, one for each studied setting with D; what is missing is measured."""
        clean = self.clean()
        found: dict[tuple[str, int], Row] = {}
        for method in methods:
            for bits in method.widths:
                if bits in widths:
                    found[method.name, bits] = {**self.plain(method, bits), "times": self.times(method, bits)}
        repaired: dict[tuple[str, int], list[Row]] = {}
        for seed in seeds:  # outermost, because all quantisers of a seed share its lessons
            for method in methods:
                for bits in self.studied:
                    repaired.setdefault((method.name, bits), []).append(self.repaired(method, bits, seed))
        points = {key: self._point(key, row, methods) for key, row in found.items()}
        plain_rows = [self._plain_row(points[key], key, row) for key, row in found.items()]
        repaired_rows = [self._repaired_row(points, key, rows, found[key], seeds) for key, rows in repaired.items()]
        return {"model": self.name, **summary([clean])}, plain_rows, repaired_rows

    def _point(self, key: tuple[str, int], row: Row, methods: Sequence[Method]) -> Point:
        settings = next(method for method in methods if method.name == key[0]).settings(key[1])
        bits = bits_per_value(settings, self.size.prefix, self.subject.layout.head_dim)
        return Point(settings.name, bits, row["kl"], row["times"][PLAIN]["ms"], row["validation_kl"])

    def _plain_row(self, point: Point, key: tuple[str, int], row: Row) -> Row:
        head = {"model": self.name, "method": key[0], "bits": key[1], "settings": point.name, "bits_per_value": round(point.bits, 3)}
        return {**head, **summary([row]), "validation_kl": row["validation_kl"], "ms": round(point.ms, 4)}

    def _repaired_row(
        self, points: Mapping[tuple[str, int], Point], key: tuple[str, int], rows: Sequence[Row], plain: Row, seeds: Sequence[int]
    ) -> Row:
        operator = new_operator(self.subject, self.training)
        extra = term_bits(operator.spec, self.subject.layout.head_dim)
        ms = {placement: round(plain["times"][placement]["ms"], 4) for placement in PLACEMENTS}
        curve = [point for (name, _), point in points.items() if name == key[0]]
        own, kl = points[key], [row["kl"] for row in rows]
        head = {"model": self.name, "method": key[0], "bits": key[1], "settings": own.name, "seeds": list(seeds)}
        return {
            **head,
            **summary(rows),
            "kl_by_seed": [fmean(row["kl"]) for row in rows],
            "ms": ms,
            "repair_parameters": operator.parameter_count(),
            "last_loss": fmean(loss for row in rows for loss in row["last_losses"]),
            "comparisons": comparisons(kl, own, extra, ms, curve, list(points.values())),
        }


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of the processor inside the block: steps of microseconds are not worth sharing out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def summary(rows: Sequence[Mapping[str, Any]]) -> Row:
    """The measures of one setting over seeds (rows) and texts; perplexity is `exp` of the mean nats, shares are 0 to 1."""

    def mean(name: str) -> float | None:
        return fmean(fmean(row[name]) for row in rows) if all(row.get(name) for row in rows) else None

    nats = mean("nats")
    return {
        "kl": crossed_interval([row["kl"] for row in rows]).as_dict(),
        "perplexity": None if nats is None else math.exp(nats),
        "agreement": mean("agreement"),
        "same_continuation": mean("same"),
        "recall": mean("recall"),
        "texts": len(rows[0]["kl"]),
        "prompts": len(rows[0].get("recall", ())),
    }
