"""The command `python -m cachemedicpp.stability`: sensitivity curves and the amplification map of a run. (specs/medic.md, 5 and 8.6)

Orchestration only: what a unit measures is in `sensitivity.measure`, what is kept in `sensitivity.progress`, what every phase
of units does in `phases.units`. A unit is a curve point or a layer of the map. A pause or a kill costs at most the unit at
hand; a resume gives the same numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cachemedicpp.phases.units import Asked, UnitSession, run_units, unit_command
from modelwright.files import read_json

if TYPE_CHECKING:
    from cachemedicpp.phases.running import EndReason, PhaseRun
    from cachemedicpp.sensitivity.measure import StabilityBench
    from cachemedicpp.sensitivity.progress import Finished
    from cachemedicpp.sensitivity.prompts import Prompts


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 completed or nothing left to do, 3 paused, 1 failure, 2 bad flags or configuration."""
    return unit_command(
        "stability",
        "Measure how far the logits of a run drift when its cache is disturbed: sensitivity curves and the amplification map.",
        "measure an untrained operator where there is no repair checkpoint",
        measure_stability,
        argv,
    )


def measure_stability(asked: Asked) -> int:
    """Measure the run and return the exit status.

    Raises ConfigError, before any file is touched, when no prompt of `eval.max_seq_len` tokens could be disturbed.
    """
    from cachemedicpp.sensitivity.progress import PROGRESS, RESULT_FILES
    from cachemedicpp.sensitivity.prompts import check_lengths

    check_lengths(asked.config)
    return run_units(asked, lambda phase: _Measurement(phase, asked).run(), PROGRESS, RESULT_FILES)


class _Measurement:
    """One session of a stability measurement: which units are left, and what they leave behind."""

    def __init__(self, phase: PhaseRun, asked: Asked) -> None:
        from cachemedicpp.evaluation.setup import checkpoint_identity, evaluated_checkpoint
        from cachemedicpp.sensitivity.counterpart import find_counterpart
        from cachemedicpp.sensitivity.progress import PROGRESS, Inputs
        from cachemedicpp.sensitivity.setup import best_heuristic

        self.phase, self.config, self.folder = phase, asked.config, phase.folder
        stability = self.config.stability
        self.deltas, self.layers = [float(value) for value in stability.delta_norms], list(stability.layers)
        self.total = len(self.deltas) + len(self.layers)
        self.session = UnitSession(phase, asked, PROGRESS, self.total, lambda: self.finished.kept(self.inputs))
        self.checkpoint = evaluated_checkpoint(self.folder, asked.allow_untrained)
        self.counterpart = find_counterpart(self.config, self.folder, self.checkpoint)
        pair = self.counterpart.checkpoint
        self.inputs = Inputs(
            None if self.checkpoint is None else checkpoint_identity(self.checkpoint),
            *best_heuristic(self.folder),
            self.counterpart.source,
            None if pair is None else checkpoint_identity(pair),
        )

    def run(self) -> EndReason:
        from cachemedicpp.sensitivity.progress import METRICS

        self.finished = self._earlier()
        return self.session.run(self.finished.units, self.finished.elapsed, METRICS, self._measure)

    # --- earlier sessions

    def _earlier(self) -> Finished:
        """What earlier sessions finished with the same inputs; results of others are moved to the archive. [C27]"""
        from cachemedicpp.sensitivity.progress import METRICS, PROGRESS, RESULT_FILES, Finished, read_finished

        progress, metrics = PROGRESS.read(self.folder), self.folder / METRICS
        if progress is not None:
            finished = read_finished(progress, self.deltas, self.layers)
            whole = finished.units == self.total and metrics.exists()
            if self.inputs.allow(progress["settings"], finished=whole):
                self.session.resumed_from = PROGRESS.path
                if metrics.exists() and not whole:
                    self.session.set_aside((METRICS,))
                return finished
        elif metrics.exists():
            document = read_json(metrics)
            held = {**document["metrics"]["stability.settings"], **document["settings"]}
            if self.inputs.allow(held, finished=True):
                self.session.resumed_from = METRICS
                return Finished(self.phase.now(), points={delta: {} for delta in self.deltas}, rows={layer: {} for layer in self.layers})
        self.session.set_aside(RESULT_FILES, "The results in this run belong to other checkpoints or another best heuristic")
        return Finished(self.phase.now())

    # --- measuring

    def _measure(self) -> dict[str, Any]:
        """Measure what is missing and write the log; returns the metrics file."""
        from cachemedicpp.phases.base_model import load_base_model
        from cachemedicpp.sensitivity.measure import CURVES
        from cachemedicpp.sensitivity.progress import LOG
        from cachemedicpp.sensitivity.prompts import load_prompts
        from cachemedicpp.sensitivity.records import log_lines
        from cachemedicpp.sensitivity.setup import MEASURED_DTYPE, operators, plain_attention, stability_setup

        self.session.pause_if_asked()
        model, tokenizer = load_base_model(plain_attention(self.config), dtype=MEASURED_DTYPE)
        setup = stability_setup(self.config, model, self.inputs.best_heuristic_name)
        prompts = load_prompts(self.config, tokenizer)
        if self.finished.units < self.total:
            from cachemedicpp.sensitivity.measure import StabilityBench

            held = operators(self.config, model, self.checkpoint, self.counterpart)
            self._measure_units(StabilityBench(model, setup, held, prompts.prompts), prompts)
        self.phase.beat(self.phase.step, "finalizing", current_unit=None)
        document = self._metrics(setup.heads, prompts)
        points = [self.finished.points[delta] for delta in self.deltas]
        self.session.write_log(LOG, log_lines(self.phase.run_id, self.phase.now(), points, CURVES))
        return document

    def _measure_units(self, bench: StabilityBench, prompts: Prompts) -> None:
        from cachemedicpp.sensitivity.counterpart import SELF
        from cachemedicpp.sensitivity.measure import CURVES, NO_CONTRACTION, REPAIRED
        from cachemedicpp.sensitivity.records import point_record, row_record
        from cachemedicpp.sensitivity.setup import amplification_delta

        items = [prompt.item for prompt in prompts.prompts]
        for delta in self.deltas:
            if delta in self.finished.points:
                continue
            unit = {"kind": "curve", "delta_norm": delta}
            self._begin(unit)
            record = point_record(bench.curve(delta, between=self.session.pause_if_asked), items, CURVES)
            if self.counterpart.source == SELF:
                record[NO_CONTRACTION] = record[REPAIRED]
            self.finished.points[delta] = record
            self.session.finish_unit(self.finished.units, "curve_progress", unit)
        for layer in self.layers:
            if layer in self.finished.rows:
                continue
            unit = {"kind": "amplification", "layer": layer}
            self._begin(unit)
            record = row_record(bench.amplification(layer, amplification_delta(self.deltas), between=self.session.pause_if_asked))
            self.finished.rows[layer] = record
            self.session.finish_unit(self.finished.units, "amplification_progress", unit)

    def _begin(self, unit: dict[str, Any]) -> None:
        self.session.pause_if_asked()
        self.phase.tell(current_unit=unit)

    # --- the metrics file

    def _metrics(self, heads: Sequence[int], prompts: Prompts) -> dict[str, Any]:
        """`metrics/stability_metrics.json`. (5.3)"""
        from cachemedicpp.sensitivity.records import map_record
        from cachemedicpp.sensitivity.setup import MEASURED_DTYPE, amplification_delta

        stability, inputs = self.config.stability, self.inputs
        details = {
            "num_prompts": len(prompts.prompts),
            "distinct_prompts": prompts.distinct,
            "skipped_prompts": prompts.skipped,
            "num_directions": stability.num_directions,
            "topk_logits": stability.topk_logits,
            "time_mode": stability.time_mode,
            "N_recent": stability.N_recent,
            "window": stability.window,
            "amplification_delta_norm": amplification_delta(self.deltas),
            "best_heuristic_name": inputs.best_heuristic_name,
            "best_heuristic_source": inputs.best_heuristic_source,
            "checkpoint_loaded": self.checkpoint is not None,
            "cachemedic_no_contr_source": inputs.cachemedic_no_contr_source,
            "cachemedic_no_contr_checkpoint": inputs.cachemedic_no_contr_checkpoint,
            "delta_injection_shared_across_variants": True,
        }
        settings = {
            "delta_norms": self.deltas,
            "layers": self.layers,
            "heads": list(heads),
            "repair_checkpoint": self.session.named(self.checkpoint, inputs.repair_checkpoint),
            "data_source": prompts.source,
            "runtime_dtype": MEASURED_DTYPE,
            "inject": self.config.corruption.inject,
        }
        metrics = {
            "stability.logit_sensitivity": [self.finished.points[delta] for delta in self.deltas],
            "stability.amplification_map": map_record(heads, [self.finished.rows[layer] for layer in self.layers]),
            "stability.settings": details,
        }
        return self.session.metrics(metrics, settings)

    finished: Finished


if __name__ == "__main__":
    sys.exit(main())
