"""The command `python -m cachemedicpp.stability`: sensitivity curves and the amplification map of a run. (specs/medic.md, 5 and 8.6)

Orchestration only: what a unit measures is in `stability_measure`, what is kept in `stability_progress`. A unit is a curve
point or a layer of the map. A pause or a kill costs at most the unit at hand; a resume gives the same numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachemedicpp.phases.arguments import phase_parser, resume_words
from modelwright.files import encode_line, read_json, write_bytes, write_json

if TYPE_CHECKING:
    from cachemedicpp.config.sections import RunConfig
    from cachemedicpp.phases.running import EndReason, PhaseRun
    from cachemedicpp.sensitivity.measure import StabilityBench
    from cachemedicpp.sensitivity.progress import Finished
    from cachemedicpp.sensitivity.prompts import Prompts


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 completed or nothing left to do, 3 paused, 1 failure, 2 bad flags or configuration."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = phase_parser(
        "stability",
        "Measure how far the logits of a run drift when its cache is disturbed: sensitivity curves and the amplification map.",
        "a heartbeat every N finished units (default: 1)",
    )
    parser.add_argument("--allow_untrained", action="store_true", help="measure an untrained operator where there is no repair checkpoint")
    arguments = parser.parse_args(words)
    from cachemedicpp.phases.running import guarded

    def start() -> int:
        from cachemedicpp.config.settings import load_run_config

        config = load_run_config(arguments.config)
        every, untrained = arguments.heartbeat_every or 1, arguments.allow_untrained
        return measure_stability(config, arguments.config, arguments.run_dir, words, arguments.resume, every, untrained)

    return guarded(start)


def measure_stability(
    config: RunConfig,
    config_path: str | Path,
    run_dir: str | Path,
    words: Sequence[str] = (),
    resume: bool = True,
    heartbeat_every: int = 1,
    allow_untrained: bool = False,
) -> int:
    """Measure the run in `run_dir` and return the exit status. words: the flags as typed, for the record.

    Raises ConfigError, before any file is touched, when no prompt of `eval.max_seq_len` tokens could be disturbed.
    """
    from cachemedicpp.config.settings import check_same_config
    from cachemedicpp.phases.running import PAUSE_ACKS, run_phase
    from cachemedicpp.sensitivity.progress import RESULT_FILES, read_progress
    from cachemedicpp.sensitivity.prompts import check_lengths

    check_lengths(config)
    folder = Path(run_dir).absolute()

    def same_progress() -> None:
        progress = read_progress(folder)
        if progress is not None:
            check_same_config(config, progress["config_hash"], "stability_progress.json")

    def work(phase: PhaseRun) -> EndReason:
        return _Measurement(phase, config, heartbeat_every, allow_untrained).run()

    again = resume_words("stability", str(config_path), str(run_dir))
    return run_phase(
        "stability",
        work,
        config=config,
        config_path=config_path,
        run_dir=folder,
        command=[sys.executable, "-m", "cachemedicpp.stability", *words],
        resume_command=[*again, "--allow_untrained"] if allow_untrained else again,
        resume=resume,
        owned=(*RESULT_FILES, "logs/stability_heartbeat.json*", f"control/{PAUSE_ACKS['stability']}"),
        before_opening=same_progress,
    )


class _Measurement:
    """One session of a stability measurement: which units are left, and what they leave behind."""

    def __init__(self, phase: PhaseRun, config: RunConfig, heartbeat_every: int, allow_untrained: bool) -> None:
        from cachemedicpp.evaluation.setup import checkpoint_identity, evaluated_checkpoint
        from cachemedicpp.sensitivity.counterpart import find_counterpart
        from cachemedicpp.sensitivity.progress import Inputs
        from cachemedicpp.sensitivity.setup import best_heuristic

        self.phase, self.config, self.folder, self.every = phase, config, phase.folder, heartbeat_every
        self.deltas, self.layers = [float(value) for value in config.stability.delta_norms], list(config.stability.layers)
        self.total = len(self.deltas) + len(self.layers)
        self.checkpoint = evaluated_checkpoint(self.folder, allow_untrained)
        self.counterpart = find_counterpart(config, self.folder, self.checkpoint)
        pair = self.counterpart.checkpoint
        self.inputs = Inputs(
            None if self.checkpoint is None else checkpoint_identity(self.checkpoint),
            *best_heuristic(self.folder),
            self.counterpart.source,
            None if pair is None else checkpoint_identity(pair),
        )
        self.resumed_from: str | None = None

    def run(self) -> EndReason:
        from cachemedicpp.sensitivity.progress import METRICS, write_progress

        self.finished = self._earlier()
        done = self.finished.units
        restored = None if self.resumed_from is None else self.folder / self.resumed_from
        self.phase.begin(total=self.total, step=done, resumed_from=restored, elapsed_before=self.finished.elapsed, current_unit=None)
        if done == self.total and (self.folder / METRICS).exists():
            return "already_completed"
        metrics = self._measure()
        self._write_log()
        write_progress(self.folder, self.finished, self.inputs, self.total, self._head("completed", "completed"))
        write_json(self.folder / METRICS, metrics)
        return "completed"

    # --- earlier sessions

    def _earlier(self) -> Finished:
        """What earlier sessions finished with the same inputs; results of others are moved to the archive. [C27]"""
        from cachemedicpp.phases.layout import archive
        from cachemedicpp.sensitivity.progress import METRICS, PROGRESS, RESULT_FILES, Finished, read_finished, read_progress

        progress, metrics = read_progress(self.folder), self.folder / METRICS
        if progress is not None:
            finished = read_finished(progress, self.deltas, self.layers)
            whole = finished.units == self.total and metrics.exists()
            if self.inputs.allow(progress["settings"], finished=whole):
                self.resumed_from = PROGRESS
                if metrics.exists() and not whole:
                    archive(self.folder, (METRICS,), clock=self.phase.clock)
                return finished
        elif metrics.exists():
            document = read_json(metrics)
            held = {**document["metrics"]["stability.settings"], **document["settings"]}
            if self.inputs.allow(held, finished=True):
                self.resumed_from = METRICS
                return Finished(self.phase.now(), points={delta: {} for delta in self.deltas}, rows={layer: {} for layer in self.layers})
        if archive(self.folder, RESULT_FILES, clock=self.phase.clock) is not None:
            print("The results in this run belong to other checkpoints or another best heuristic; they were moved to archive/.", flush=True)
        return Finished(self.phase.now())

    # --- measuring

    def _measure(self) -> dict[str, Any]:
        """Measure what is missing; returns the metrics file."""
        from cachemedicpp.phases.base_model import load_base_model
        from cachemedicpp.sensitivity.prompts import load_prompts
        from cachemedicpp.sensitivity.setup import MEASURED_DTYPE, operators, plain_attention, stability_setup

        self._pause_if_asked()
        model, tokenizer = load_base_model(plain_attention(self.config), dtype=MEASURED_DTYPE)
        setup = stability_setup(self.config, model, self.inputs.best_heuristic_name)
        prompts = load_prompts(self.config, tokenizer)
        if self.finished.units < self.total:
            from cachemedicpp.sensitivity.measure import StabilityBench

            held = operators(self.config, model, self.checkpoint, self.counterpart)
            self._measure_units(StabilityBench(model, setup, held, prompts.prompts), prompts)
        self.phase.beat(self.phase.step, "finalizing", current_unit=None)
        return self._metrics(setup.heads, prompts)

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
            record = point_record(bench.curve(delta, between=self._pause_if_asked), items, CURVES)
            if self.counterpart.source == SELF:
                record[NO_CONTRACTION] = record[REPAIRED]
            self.finished.points[delta] = record
            self._keep("curve_progress", unit)
        for layer in self.layers:
            if layer in self.finished.rows:
                continue
            unit = {"kind": "amplification", "layer": layer}
            self._begin(unit)
            record = row_record(bench.amplification(layer, amplification_delta(self.deltas), between=self._pause_if_asked))
            self.finished.rows[layer] = record
            self._keep("amplification_progress", unit)

    def _begin(self, unit: dict[str, Any]) -> None:
        self._pause_if_asked()
        self.phase.tell(current_unit=unit)

    def _keep(self, reason: str, unit: dict[str, Any]) -> None:
        from cachemedicpp.sensitivity.progress import write_progress

        step = self.phase.step = self.finished.units
        write_progress(self.folder, self.finished, self.inputs, self.total, self._head("running", reason), durable=False)
        if step % self.every == 0 or step == self.total:
            self.phase.beat(step, reason, current_unit=unit)

    # --- files

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
        named = None if self.checkpoint is None else {"file": self.phase.relative(self.checkpoint), **(inputs.repair_checkpoint or {})}
        settings = {
            "delta_norms": self.deltas,
            "layers": self.layers,
            "heads": list(heads),
            "repair_checkpoint": named,
            "data_source": prompts.source,
            "runtime_dtype": MEASURED_DTYPE,
            "inject": self.config.corruption.inject,
        }
        metrics = {
            "stability.logit_sensitivity": [self.finished.points[delta] for delta in self.deltas],
            "stability.amplification_map": map_record(heads, [self.finished.rows[layer] for layer in self.layers]),
            "stability.settings": details,
        }
        return {"run_id": self.phase.run_id, "config_hash": self.phase.config_hash, "metrics": metrics, "settings": settings}

    def _pause_if_asked(self) -> None:
        self.phase.pause_if_asked(self._save)

    def _save(self, reason: str) -> Path:
        from cachemedicpp.sensitivity.progress import write_progress

        return write_progress(self.folder, self.finished, self.inputs, self.total, self._head("paused", reason))

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

    def _write_log(self) -> None:
        """`logs/stability.jsonl`, written whole, so that a session that died here leaves no line twice."""
        from cachemedicpp.sensitivity.measure import CURVES
        from cachemedicpp.sensitivity.progress import LOG
        from cachemedicpp.sensitivity.records import log_lines

        points = [self.finished.points[delta] for delta in self.deltas]
        lines = log_lines(self.phase.run_id, self.phase.now(), points, CURVES)
        write_bytes(self.folder / LOG, b"".join(map(encode_line, lines)))

    finished: Finished


if __name__ == "__main__":
    sys.exit(main())
