"""The command `python -m cachemedicpp.eval`: six defences on the corruption grid of a run. (specs/medic.md, 6 and 8.5)

Orchestration only: what a cell measures is in `evaluation.defences`, what is kept in `evaluation.progress`, what becomes of
the cells in `evaluation.comparison`, and what every phase of units does in `phases.units`. The six units of a cell are
measured together, batch by batch, on the same damaged caches, and then enter the progress one by one. A pause or a kill
costs at most the cell at hand; a resume gives the same numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cachemedicpp.phases.units import Asked, UnitSession, run_units, unit_command
from modelwright.files import JsonlAppender, encode_line, read_json

if TYPE_CHECKING:
    from cachemedicpp.evaluation.defences import Bench, Measured
    from cachemedicpp.evaluation.grid import Unit
    from cachemedicpp.evaluation.progress import Finished
    from cachemedicpp.phases.running import EndReason, PhaseRun


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 completed or nothing left to do, 3 paused, 1 failure, 2 bad flags or configuration."""
    return unit_command(
        "eval",
        "Evaluate the newest repair checkpoint of a run beside no defence and four heuristics on the corruption grid.",
        "evaluate an untrained operator where there is no repair checkpoint",
        evaluate,
        argv,
    )


def evaluate(asked: Asked) -> int:
    """Evaluate the run and return the exit status."""
    from cachemedicpp.evaluation.progress import PROGRESS, RESULT_FILES

    return run_units(asked, lambda phase: _Evaluation(phase, asked).run(), PROGRESS, RESULT_FILES)


class _Evaluation:
    """One session of an evaluation: which units are left, and what they leave behind."""

    def __init__(self, phase: PhaseRun, asked: Asked) -> None:
        from cachemedicpp.config.settings import evaluated_types
        from cachemedicpp.evaluation.grid import grid_units
        from cachemedicpp.evaluation.progress import PROGRESS
        from cachemedicpp.evaluation.setup import checkpoint_identity, evaluated_checkpoint

        self.phase, self.config, self.folder = phase, asked.config, phase.folder
        self.eps, self.types = [float(value) for value in self.config.eval.corruption_eval.eps], evaluated_types(self.config)
        self.units = grid_units([task.name for task in self.config.eval.tasks], self.types, self.eps)
        self.session = UnitSession(phase, asked, PROGRESS, len(self.units), lambda: self.finished.kept(self.units))
        self.checkpoint = evaluated_checkpoint(self.folder, asked.allow_untrained)
        self.repair = None if self.checkpoint is None else checkpoint_identity(self.checkpoint)

    def run(self) -> EndReason:
        from cachemedicpp.evaluation.progress import METRICS

        self.finished = self._earlier()
        return self.session.run(len(self.finished.records), self.finished.elapsed, METRICS, self._measure)

    # --- earlier sessions

    def _earlier(self) -> Finished:
        """What earlier sessions finished with this checkpoint; results of another one are moved to the archive. [C27]"""
        from cachemedicpp.evaluation.progress import METRICS, PROGRESS, RESULT_FILES, Finished, read_finished

        counts: dict[str, int] = {task.name: task.num_examples for task in self.config.eval.tasks}
        progress, metrics = PROGRESS.read(self.folder), self.folder / METRICS
        if progress is not None and progress["repair"] == self.repair:
            self.session.resumed_from = PROGRESS.path
            finished = read_finished(self.folder, progress, counts)
            if metrics.exists() and len(finished.records) < len(self.units):
                self.session.set_aside((METRICS,))
            return finished
        if progress is None and metrics.exists():
            settings = read_json(metrics)["settings"]
            if settings.get("repair_checkpoint") == self.session.named(self.checkpoint, self.repair):
                self.session.resumed_from = METRICS
                return Finished(self.repair, self.phase.now(), records={unit.key: {} for unit in self.units})
        self.session.set_aside(RESULT_FILES, "The results in this run belong to another repair checkpoint")
        return Finished(self.repair, self.phase.now())

    # --- measuring

    def _measure(self) -> dict[str, Any]:
        """Measure what is missing and write the log; returns the metrics file."""
        from cachemedicpp.evaluation.progress import EXAMPLES, LOG
        from cachemedicpp.evaluation.records import log_lines

        with JsonlAppender(self.folder / EXAMPLES) as self._lines:
            document = self._results()
        lines = log_lines(self.phase.run_id, self.phase.now(), document["metrics"], self.finished.in_order(self.units))
        self.session.write_log(LOG, lines)
        return document

    def _results(self) -> dict[str, Any]:
        from cachemedicpp.config.devices import runtime_dtype
        from cachemedicpp.evaluation.comparison import aggregate
        from cachemedicpp.evaluation.decode_overhead import decode_overhead
        from cachemedicpp.evaluation.defences import Bench
        from cachemedicpp.evaluation.examples import task_examples, text_splits
        from cachemedicpp.evaluation.records import overhead, places
        from cachemedicpp.evaluation.setup import evaluated_operator, evaluation_setup
        from cachemedicpp.inputs.tasks import WIKITEXT
        from cachemedicpp.phases.base_model import load_base_model

        self.session.pause_if_asked()
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
            metrics["decode_overhead"] = decode_overhead(model, operator, setup, self.config.eval.max_seq_len, self.session.pause_if_asked)
        settings = {
            "tasks": list(examples),
            "eps": self.eps,
            "types": list(self.types),
            "ood_protocol": self.config.eval.ood_protocol,
            "checkpoint_loaded": self.checkpoint is not None,
            "repair_checkpoint": self.session.named(self.checkpoint, self.repair),
            "data_source": sources,
            "runtime_dtype": runtime_dtype(self.config.dtype, self.config.device),
            "inject": self.config.corruption.inject,
            "severity": self.config.corruption.severity,
            "heuristic_mask": self.config.eval.heuristic_mask,
            "donor": None if donor is None else donor.as_dict(),
        }
        return self.session.metrics(metrics, settings)

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
                self.session.pause_if_asked()
                self._keep_clean(unit)
            return
        event = CLEAN if first.stage == "clean" else Event(first.corruption_type, first.epsilon)
        found = bench.measure(event, [unit.defence for unit in missing], between=self.session.pause_if_asked)
        for unit, measured in zip(missing, found, strict=True):
            self.session.pause_if_asked()
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
        from cachemedicpp.evaluation.records import shown, unit_record

        head = {"run_id": self.phase.run_id, "unit_key": unit.key, "defense": unit.defence}
        self._lines.append_bytes(b"".join(encode_line({**head, **score.as_dict()}) for score in measured.scores))
        record = unit_record(Cell(unit, measured.scores), measured.tokens, measured.seconds, measured.gpu_mem_gb)
        self.finished.scores[unit.key] = measured.scores
        self.finished.records[unit.key] = {**record, **further}
        self.session.finish_unit(len(self.finished.records), "progress", shown(unit))

    finished: Finished
    _lines: JsonlAppender


if __name__ == "__main__":
    sys.exit(main())
