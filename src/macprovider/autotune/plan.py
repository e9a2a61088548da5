"""What a run will try, in which order, before anything is started. Pure. (specs/autotune.md, 6.1, 3.2, 3.3)"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from macprovider.capacity import tier_of

if TYPE_CHECKING:
    from macprovider.autotune.arguments import Options

COMMAND = "macprovider-cli"


@dataclass(frozen=True)
class Knobs:
    """What may be tuned. kv_bits: 4, 8, or None for a cache without quantisation. max_context: tokens of prompt and answer;
    None leaves it to the server. repair: absolute path of a CacheMedic checkpoint, None without one.
    """

    kv_bits: int | None = None
    max_batch: int = 1
    max_context: int | None = None
    repair: str | None = None

    def as_flags(self) -> list[str]:
        """The arguments of `serve`."""
        flags = [] if self.kv_bits is None else ["--kv-bits", str(self.kv_bits)]
        flags += ["--max-batch", str(self.max_batch)]
        flags += [] if self.max_context is None else ["--max-context", str(self.max_context)]
        return flags if self.repair is None else [*flags, "--repair", self.repair]

    def as_yaml(self) -> dict[str, int | str | None]:
        """The same under the names of the configuration file; `repair` only where there is one, as the contract knows three names."""
        three: dict[str, int | str | None] = {
            "kv_bits": self.kv_bits,
            "max_concurrency_override": self.max_batch,
            "max_context_override": self.max_context,
        }
        return three if self.repair is None else three | {"repair": self.repair}

    def words(self) -> str:
        """`kv_bits unset, max_batch 1, max_context 4000`, and `, repair repair_step_500.pt` with one"""
        context = "default" if self.max_context is None else self.max_context
        three = f"kv_bits {kv_word(self.kv_bits)}, max_batch {self.max_batch}, max_context {context}"
        return three if self.repair is None else f"{three}, repair {PurePath(self.repair).name}"


def kv_word(kv_bits: int | None) -> str:
    """How the terminal and the axes write it."""
    return "unset" if kv_bits is None else str(kv_bits)


def fit_knobs(target_context: int, ram_gb: float | None) -> Knobs:
    """The knobs of Stage 1: nothing is asked for, unless the context that `serve` grants on its own to a machine with so many
    GiB lies below the target: the server would answer 413 for a reason that has nothing to do with fit.
    """
    return Knobs(max_context=target_context if target_context > tier_of(ram_gb).max_context else None)


def cells(
    kv_bits_axis: Sequence[int | None],
    max_batch_axis: Sequence[int],
    max_context_axis: Sequence[int],
    target_context: int,
    repair: Path | None = None,
) -> list[Knobs]:
    """The cells of Stage 2: kv_bits outermost, then max_batch, then max_context; an empty context axis is the target alone. With
    `repair`, a quantised cell stands twice, first without it; an unquantised cache has nothing to mend.
    """
    contexts = max_context_axis or (target_context,)
    return [
        Knobs(kv_bits, max_batch, context, operator)
        for kv_bits, max_batch, context in product(kv_bits_axis, max_batch_axis, contexts)
        for operator in ((None,) if repair is None or kv_bits is None else (None, str(repair)))
    ]


def cells_of(options: Options) -> list[Knobs]:
    """The cells that a command line asks for."""
    return cells(options.kv_bits_axis, options.max_batch_axis, options.max_context_axis, options.target_context, options.repair)


def serve_command(model: str, knobs: Knobs, engine: str = "auto") -> str:
    """The command a user types to serve the recommendation. engine: "auto" where `serve` takes it on its own."""
    named = [] if engine == "auto" else ["--engine", engine]
    return shlex.join([COMMAND, "serve", "--model", model, *named, *knobs.as_flags()])


def describe(options: Options, memory: Sequence[str], cell_memory: Sequence[str], whose: str) -> str:
    """The dry run: what would be tried, in order. memory: in words, of each candidate. cell_memory: of each cell, for the candidate
    `whose`; empty where nothing can be said of them.
    """
    axis = cells_of(options)
    lines = [
        "PLAN (nothing was started, fetched or written)",
        f"  target_context:  {options.target_context} tokens of prompt and answer, {options.max_tokens} of them for the answer",
        f"  engine:          {options.engine_reason.removeprefix('engine ') or options.engine}",
        f"  gate:            first token within {options.gate_ttft_ms} ms, every request answered, no stop token leaked",
        f"  budget:          {options.max_duration} s for everything",
        f"  port, database:  {options.port}, {options.db_path}",
        *([] if options.repair is None else [f"  repair:          {options.repair}, beside every quantised cache, after it alone"]),
        f"Stage 1: the first of these that passes, in this order ({options.stage1_replicates} measured request(s) each)",
    ]
    lines += [
        f"  {rank}. {model}  ({words})" for rank, (model, words) in enumerate(zip(options.candidate_models, memory, strict=True), start=1)
    ]
    lines.append(f"Stage 2: {len(axis)} cells of the chosen model ({options.stage2_replicates} measured request(s) each)")
    lines += [f"  (memory as predicted for {whose})"] if cell_memory else []
    beside = [f"  ({words})" for words in cell_memory] or [""] * len(axis)
    lines += [f"  {number}. {knobs.words()}{words}" for number, (knobs, words) in enumerate(zip(axis, beside, strict=True), start=1)]
    lines.append(f"Ties within {options.tps_tie_epsilon:g} of the best tokens/s go to {tie_words(options.objective)}.")
    if options.quality_gate:
        lines.append(
            f"Quality gate: a quantised cache must give {options.min_agreement:g} of the greedy answers of the unquantised one and "
            f"diverge by at most {options.max_kl:g} nats per token."
        )
    return "\n".join(lines)


def tie_words(objective: str) -> str:
    """What decides a tie."""
    if objective == "capacity":
        return "more concurrent tokens, then the smaller cache, then the earlier first token"
    return "the earlier first token"
