"""The command `python -m cachemedicpp.eval`: six defences on the corruption grid of a run. (specs/medic.md, 6 and 8.5)

Orchestration only: what a cell measures is in `evaluation`, what is kept in `eval_progress`, what becomes of the cells in
`comparison`. The six units of a cell are measured together, batch by batch, on the same damaged caches, and then enter the
progress one by one. A pause or a kill costs at most the cell at hand; a resume gives the same numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachemedicpp.phases.arguments import phase_parser, resume_words
from modelwright.files import JsonlAppender, encode_line, read_json, write_bytes, write_json

if TYPE_CHECKING:
    from cachemedicpp.config.sections import RunConfig
    from cachemedicpp.evaluation.defences import Bench, Measured
    from cachemedicpp.evaluation.grid import Unit
    from cachemedicpp.evaluation.progress import Finished
    from cachemedicpp.phases.running import EndReason, PhaseRun


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 completed or nothing left to do, 3 paused, 1 failure, 2 bad flags or configuration."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = phase_parser(
        "eval",
        "Evaluate the newest repair checkpoint of a run beside no defence and four heuristics on the corruption grid.",
        "a heartbeat every N finished units (default: 1)",
    )
    parser.add_argument("--allow_untrained", action="store_true", help="evaluate an untrained operator where there is no repair checkpoint")
    arguments = parser.parse_args(words)
    from cachemedicpp.phases.running import guarded

    def start() -> int:
        from cachemedicpp.config.settings import load_run_config

        config = load_run_config(arguments.config)
        every, untrained = arguments.heartbeat_every or 1, arguments.allow_untrained
        return evaluate(config, arguments.config, arguments.run_dir, words, arguments.resume, every, untrained)

    return guarded(start)


def evaluate(
    config: RunConfig,
    config_path: str | Path,
    run_dir: str | Path,
    words: Sequence[str] = (),
    resume: bool = True,
    heartbeat_every: int = 1,
    allow_untrained: bool = False,
) -> int:
    """Evaluate the run in `run_dir` and return the exit status. words: the flags as typed, for the record."""
    from cachemedicpp.config.settings import check_same_config
    from cachemedicpp.evaluation.progress import RESULT_FILES, read_progress
    from cachemedicpp.phases.running import PAUSE_ACKS, run_phase

    folder = Path(run_dir).absolute()

    def same_progress() -> None:
        progress = read_progress(folder)
        if progress is not None:
            check_same_config(config, progress["config_hash"], "eval_progress.json")

    def work(phase: PhaseRun) -> EndReason:
        return _Evaluation(phase, config, heartbeat_every, allow_untrained).run()

    again = resume_words("eval", str(config_path), str(run_dir))
    return run_phase(
        "eval",
        work,
        config=config,
        config_path=config_path,
        run_dir=folder,
        command=[sys.executable, "-m", "cachemedicpp.eval", *words],
        resume_command=[*again, "--allow_untrained"] if allow_untrained else again,
        resume=resume,
        owned=(*RESULT_FILES, "logs/eval_heartbeat.json*", f"control/{PAUSE_ACKS['eval']}"),
        before_opening=same_progress,
    )


class _Evaluation:
    """One session of an evaluation: which units are left, and what they leave behind."""

    def __init__(self, phase: PhaseRun, config: RunConfig, heartbeat_every: int, allow_untrained: bool) -> None:
        from cachemedicpp.config.settings import evaluated_types
        from cachemedicpp.evaluation.grid import grid_units
        from cachemedicpp.evaluation.setup import checkpoint_identity, evaluated_checkpoint

        self.phase, self.config, self.folder, self.every = phase, config, phase.folder, heartbeat_every
        self.eps, self.types = [float(value) for value in config.eval.corruption_eval.eps], evaluated_types(config)
        self.units = grid_units([task.name for task in config.eval.tasks], self.types, self.eps)
        self.checkpoint = evaluated_checkpoint(self.folder, allow_untrained)
        self.repair = None if self.checkpoint is None else checkpoint_identity(self.checkpoint)
        self.resumed_from: str | None = None

    def run(self) -> EndReason:
        from cachemedicpp.evaluation.progress import EXAMPLES, METRICS, write_progress

        self.finished = self._earlier()
        done = len(self.finished.records)
        restored = None if self.resumed_from is None else self.folder / self.resumed_from
        self.phase.begin(total=len(self.units), step=done, resumed_from=restored, elapsed_before=self.finished.elapsed, current_unit=None)
        if done == len(self.units) and (self.folder / METRICS).exists():
            return "already_completed"
        with JsonlAppender(self.folder / EXAMPLES) as self._lines:
            metrics = self._measure()
        self._write_log(metrics["metrics"])
        write_progress(self.folder, self.finished, self.units, self._head("completed", "completed"))
        write_json(self.folder / METRICS, metrics)
        return "completed"

    # --- earlier sessions

    def _earlier(self) -> Finished:
        """What earlier sessions finished with this checkpoint; results of another one are moved to the archive. [C27]"""
        from cachemedicpp.evaluation.progress import METRICS, PROGRESS, RESULT_FILES, Finished, read_finished, read_progress
        from cachemedicpp.phases.layout import archive

        counts: dict[str, int] = {task.name: task.num_examples for task in self.config.eval.tasks}
        progress, metrics = read_progress(self.folder), self.folder / METRICS
        if progress is not None and progress["repair"] == self.repair:
            self.resumed_from = PROGRESS
            finished = read_finished(self.folder, progress, counts)
            if metrics.exists() and len(finished.records) < len(self.units):
                archive(self.folder, (METRICS,), clock=self.phase.clock)
            return finished
        if progress is None and metrics.exists():
            settings = read_json(metrics)["settings"]
            if settings.get("repair_checkpoint") == self._described():
                self.resumed_from = METRICS
                return Finished(self.repair, self.phase.now(), records={unit.key: {} for unit in self.units})
        if archive(self.folder, RESULT_FILES, clock=self.phase.clock) is not None:
            print("The results in this run belong to another repair checkpoint; they were moved to archive/.", flush=True)
        return Finished(self.repair, self.phase.now())

    # --- measuring

    def _measure(self) -> dict[str, Any]:
        from cachemedicpp.config.devices import runtime_dtype
        from cachemedicpp.evaluation.comparison import aggregate
        from cachemedicpp.evaluation.decode_overhead import decode_overhead
        from cachemedicpp.evaluation.defences import Bench
        from cachemedicpp.evaluation.examples import task_examples, text_splits
        from cachemedicpp.evaluation.records import overhead, places
        from cachemedicpp.evaluation.setup import evaluated_operator, evaluation_setup
        from cachemedicpp.inputs.tasks import WIKITEXT
        from cachemedicpp.phases.base_model import load_base_model

        self._pause_if_asked()
        model, tokenizer = load_base_model(self.config)
        operator = evaluated_operator(self.config, model, self.checkpoint)
        setup = evaluation_setup(self.config, model, tokenizer, self.types)
        examples, sources = task_examples(self.config, tokenizer)
        if WIKITEXT in examples:
            sources["text_splits"] = text_splits(self.config)
        donor = setup.corruption.donor
        for task, of_task in examples.items():
            bench = Bench(model, operator, setup, of_task)
            for cell in places(self.units, task):
                self._measure_cell(bench, cell)
        self.phase.beat(self.phase.step, "finalizing", current_unit=None)
        metrics = aggregate(self.finished.cells(self.units), self.eps, seed=self.config.seed)
        metrics["overhead"] = {}
        if self.config.eval.measure_overhead:
            metrics["overhead"] = overhead(self.finished.in_order(self.units))
            metrics["decode_overhead"] = decode_overhead(model, operator, setup, self.config.eval.max_seq_len, self._pause_if_asked)
        settings = {
            "tasks": list(examples),
            "eps": self.eps,
            "types": list(self.types),
            "ood_protocol": self.config.eval.ood_protocol,
            "checkpoint_loaded": self.checkpoint is not None,
            "repair_checkpoint": self._described(),
            "data_source": sources,
            "runtime_dtype": runtime_dtype(self.config.dtype, self.config.device),
            "inject": self.config.corruption.inject,
            "severity": self.config.corruption.severity,
            "heuristic_mask": self.config.eval.heuristic_mask,
            "donor": None if donor is None else donor.as_dict(),
        }
        return {"run_id": self.phase.run_id, "config_hash": self.phase.config_hash, "metrics": metrics, "settings": settings}

    def _measure_cell(self, bench: Bench, cell: Sequence[Unit]) -> None:
        """Measure what is missing of the six units of one place of the grid."""
        from cachemedicpp.evaluation.records import shown
        from cachemedicpp.faults.events import CLEAN, Event

        missing = [unit for unit in cell if unit.key not in self.finished.records]
        if not missing:
            return
        first = missing[0]
        self.phase.tell(current_unit=shown(first))
        if first.stage == "corr" and first.epsilon == 0:
            for unit in missing:
                self._pause_if_asked()
                self._keep_clean(unit)
            return
        event = CLEAN if first.stage == "clean" else Event(first.corruption_type, first.epsilon)
        found = bench.measure(event, [unit.defence for unit in missing], between=self._pause_if_asked)
        for unit, measured in zip(missing, found, strict=True):
            self._pause_if_asked()
            self._keep(unit, measured)

    def _keep_clean(self, unit: Unit) -> None:
        """A cell without corruption is the clean cell, so its numbers are taken from there."""
        from cachemedicpp.evaluation.defences import Measured
        from cachemedicpp.evaluation.grid import Unit
        from cachemedicpp.faults.events import NO_EVENT

        clean = Unit("clean", unit.task, unit.defence, NO_EVENT, 0.0)
        self._keep(unit, Measured(unit.defence, self.finished.scores[clean.key], 0, 0.0, None), same_as=clean.key)

    def _keep(self, unit: Unit, measured: Measured, **further: Any) -> None:
        """Write the unit down, examples first; it counts once the progress file has it."""
        from cachemedicpp.evaluation.aggregation import Cell
        from cachemedicpp.evaluation.progress import write_progress
        from cachemedicpp.evaluation.records import shown, unit_record

        head = {"run_id": self.phase.run_id, "unit_key": unit.key, "defense": unit.defence}
        self._lines.append_bytes(b"".join(encode_line({**head, **score.as_dict()}) for score in measured.scores))
        record = unit_record(Cell(unit, measured.scores), measured.tokens, measured.seconds, measured.gpu_mem_gb)
        self.finished.scores[unit.key] = measured.scores
        self.finished.records[unit.key] = {**record, **further}
        step = self.phase.step = len(self.finished.records)
        write_progress(self.folder, self.finished, self.units, self._head("running", "progress"), durable=False)
        if step % self.every == 0 or step == len(self.units):
            self.phase.beat(step, "progress", current_unit=shown(unit))

    # --- files

    def _pause_if_asked(self) -> None:
        self.phase.pause_if_asked(self._save)

    def _save(self, reason: str) -> Path:
        from cachemedicpp.evaluation.progress import write_progress

        return write_progress(self.folder, self.finished, self.units, self._head("paused", reason))

    def _head(self, status: str, reason: str) -> dict[str, Any]:
        return {
            "run_id": self.phase.run_id,
            "config_hash": self.phase.config_hash,
            "status": status,
            "reason": reason,
            "updated_utc": self.phase.now(),
            "elapsed_wall_sec": self.phase.elapsed(),
            "resumed_from": self.resumed_from,
        }

    def _described(self) -> dict[str, Any] | None:
        """The evaluated checkpoint as the metrics name it."""
        if self.checkpoint is None or self.repair is None:
            return None
        return {"file": self.phase.relative(self.checkpoint), **self.repair}

    def _write_log(self, metrics: Mapping[str, Any]) -> None:
        """`logs/eval.jsonl`, written whole, so that a session that died here leaves no line twice."""
        from cachemedicpp.evaluation.progress import LOG
        from cachemedicpp.evaluation.records import log_lines

        lines = log_lines(self.phase.run_id, self.phase.now(), metrics, self.finished.in_order(self.units))
        write_bytes(self.folder / LOG, b"".join(map(encode_line, lines)))

    finished: Finished
    _lines: JsonlAppender


if __name__ == "__main__":
    sys.exit(main())
