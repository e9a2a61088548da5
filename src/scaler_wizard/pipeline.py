"""The seven steps in order, for one attempt at one job.

1 resolve (done before: the pipeline gets a ResolvedJob and the contract's token)
2 bootstrap      3 prepare         P0
4 expand, 5 train, per rung        P1 base, P2 first expansion, P3 the rest
6 preserve       7 export          P4
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modelwright.clock import stamp
from modelwright.files import sha256_file, write_json
from modelwright.memory import record_measured
from modelwright.probes.passkey import PASSING_ACCURACY
from scaler_wizard.bootstrap import Runtime, bootstrap, measured_peak
from scaler_wizard.circuit_breaker import CBConfig, CircuitBreaker
from scaler_wizard.contract import AcceptanceToken, Contract
from scaler_wizard.evaluation import (
    ACCURACY_PROBE,
    EvaluationInterrupted,
    Evaluator,
    Measured,
    Regression,
    short_context_regression,
)
from scaler_wizard.export import ExportReport, export
from scaler_wizard.ladder import Climbed, Ladder, copy_state
from scaler_wizard.outcomes import BreakerStop, RunResult
from scaler_wizard.preparation import Prepared, context_of, prepare, write_context
from scaler_wizard.report import write_report
from scaler_wizard.rung_data import TextPool, evaluation_texts, load_pool
from scaler_wizard.rung_training import halted
from scaler_wizard.sentences import canonical_sentence
from scaler_wizard.session import Session
from scaler_wizard.telegram import Action, print_telegram, print_telegram_to_stderr


class Pipeline:
    """One attempt. Cannot be built without the token of an accepted contract.

    Raises ContractNotAcceptedError when the token was issued for another run.
    """

    def __init__(self, session: Session, contract: Contract, token: AcceptanceToken) -> None:
        token.require(session.run_id)
        self.session = session
        self.contract = contract
        job = session.job
        limits = job.safety.circuit_breaker
        self.breaker = CircuitBreaker(
            CBConfig(
                window_steps=limits.window_steps,
                max_perplexity_delta=limits.max_perplexity_delta,
                min_accuracy=limits.min_accuracy,
                hard_stop=limits.hard_stop,
                telegram_path=session.path / "telegram.json",
                mode="robust" if limits.mode == "robust" else "classic",
            ),
            context=session.context,
            printer=print_telegram_to_stderr if job.json_output else print_telegram,
        )

    def run(self) -> RunResult:
        """All steps. What interrupts them (breaker, human, pause, hardware, files) is raised, each as its own
        exception.
        """
        session = self.session
        session.enter_phase(0)
        session.report("initializing", "Looking at the machine.")
        with session.busy("reading hardware and measuring arithmetic"):
            runtime = bootstrap(session.job, session.path)
        session.hardware = runtime.profile
        with session.busy("loading the model"):
            prepared = self._prepare(runtime)
        with session.busy("reading the dataset"):
            pool, evaluator = self._data(prepared)
        base = self._preflight(evaluator)
        climbed = Ladder(session, runtime, prepared, evaluator, self.breaker, pool, base, self.contract.max_context).climb()
        session.enter_phase(4, climbed.rung.length)
        regression = self._preserve(base, climbed)
        with session.busy("exporting"):
            exported = export(session, prepared, climbed.rung.length, evaluator.texts[0])
        self._write_results(base, climbed, regression, exported, runtime)
        record_measured(session.path, runtime.forecast, measured_peak(runtime.device)[0], source=measured_peak(runtime.device)[1])
        write_report(session.path)
        return self._completed(climbed, exported)

    # ---- P0 ------------------------------------------------------------------------------------------------------

    def _prepare(self, runtime: Runtime) -> Prepared:
        session = self.session
        prepared = prepare(session.job, runtime)
        session.say(prepared.share.sentence())
        session.event("model/prepared", trainable=prepared.share.trainable, total=prepared.share.total, share=prepared.share.share)
        if prepared.whole_logits:
            session.event("model/whole_logits", reason=prepared.whole_logits)
        session.run.update(trainable_parameters=prepared.share.trainable, total_parameters=prepared.share.total)
        base_length = session.job.scaling.base_context
        if session.state.promoted_phase(0):
            return prepared

        def fill(folder: Path) -> None:
            prepared.strategy.save(prepared.model, folder)
            write_context(folder, prepared.model, base_length)

        session.save("phase_0", fill, step=0, metadata={"length": base_length, "config_sha256": session.job.config_sha256})
        session.state.promote_phase(0, session.store.get("phase_0").manifest_sha256, context_of(prepared.model).get("rope_parameters", {}))
        session.finished_phase(0, "completed", None)
        return prepared

    def _data(self, prepared: Prepared) -> tuple[TextPool, Evaluator]:
        session, job = self.session, self.session.job
        pool = load_pool(job, prepared.tokenizer)
        session.event("data/loaded", **pool.summary())
        texts = evaluation_texts(pool, prepared.tokenizer, job.rungs[-1].length, job.evaluation.eval_tokens)
        return pool, Evaluator(session, prepared.model, prepared.tokenizer, texts)

    def _preflight(self, evaluator: Evaluator) -> Measured:
        """Measure the untouched model at every length of the ladder, so that a gain can be shown; refuse a base that is already below
        the accuracy floor at its own length.
        """
        session = self.session
        length = session.job.scaling.base_context
        session.at.rung = length
        try:
            with session.busy("measuring the base model"):
                base = evaluator.measure("preflight", [rung.length for rung in session.job.rungs], [ACCURACY_PROBE])
        except EvaluationInterrupted as error:
            raise halted(session) from error
        accuracy, floor = base.accuracy(length), self.breaker.config.min_accuracy
        session.note_perplexity(base.perplexity[length], accuracy, preflight=True)
        session.report("running", f"Base model: perplexity {base.perplexity[length]:.2f} at {length} tokens.")
        if accuracy is not None and accuracy < floor:
            reason = f"base accuracy {accuracy:.2f} below floor {floor:.2f} before any training"
            telegram = session.telegram("stop", reason, triggers=["accuracy_floor"], recommended="abort")
            raise BreakerStop(
                f"The base model's {ACCURACY_PROBE} accuracy at {length} tokens is {accuracy:.2f}, below the floor of "
                f"{floor:.2f}: the "
                "run was not started. Lower the floor explicitly with --min-accuracy, or choose another model.",
                telegram,
            )
        telegram_or_none = self.breaker.check_step(0, loss=base.perplexity[length])
        if telegram_or_none is not None:
            raise BreakerStop("The base model's perplexity is not finite: its weights or the data are unusable.", telegram_or_none)
        return base

    # ---- P4 ------------------------------------------------------------------------------------------------------

    def _preserve(self, base: Measured, climbed: Climbed) -> Regression:
        """Step 6: what short context lost."""
        session, limits = self.session, self.session.job.evaluation
        length = session.job.scaling.base_context
        regression = short_context_regression(
            base, climbed.measured, length, limits.short_drop_warn, limits.short_drop_stop, session.job.persona
        )
        session.event("preservation/short_context", **asdict(regression))
        session.log("eval/short_context_drop", regression.drop_points, length=length)
        session.say(regression.sentence())
        if regression.verdict != "continue":
            reason = f"short-context drop {regression.drop_points:.1f} points"
            action: Action = "stop" if regression.verdict == "stop" else "warn"
            telegram = session.telegram(action, reason, triggers=["short_context"])
            session.judged(telegram)
            if action == "stop":
                raise BreakerStop(f"Stopped: {regression.sentence()}.", telegram)
        return regression

    def _write_results(self, base: Measured, climbed: Climbed, regression: Regression, exported: ExportReport, runtime: Runtime) -> None:
        """`benchmarks/results/YYYYMMDD_model_template.json` in the run directory, and `phase_4`."""
        session, job = self.session, self.session.job
        now = session.clock.now()
        document: Mapping[str, Any] = {
            "schema_version": "1.0",
            "run_id": session.run_id,
            "timestamp": stamp(now),
            "model": job.model.base_model,
            "template": job.scaling.template,
            "context_method": job.scaling.context_method,
            "base_context": job.scaling.base_context,
            "target_context": job.scaling.target_context,
            "achieved_context": climbed.rung.length,
            "shortfall": climbed.shortfall,
            "preflight": base.as_dict(),
            "final": climbed.measured.as_dict(),
            "short_context": asdict(regression),
            "export": exported.as_dict(),
            "config_sha256": job.config_sha256,
            "contract_sha256": self.contract.sha256,
            "hardware_sha256": sha256_file(session.path / "hardware.json"),
            "arithmetic": asdict(runtime.arithmetic),
        }
        slug = "".join(c if c.isalnum() or c in ".-" else "-" for c in Path(job.model.base_model.rstrip("/")).name)
        folder = session.path / "benchmarks" / "results"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{now:%Y%m%d}_{slug}_{job.scaling.template}.json", document)
        last = session.store.get(f"rung_{climbed.rung.length}")
        session.save(
            "phase_4",
            lambda target: copy_state(last.path, target),
            step=session.at.step,
            metadata={"length": climbed.rung.length, "config_sha256": job.config_sha256},
        )
        session.state.promote_phase(4, session.store.get("phase_4").manifest_sha256)
        session.finished_phase(4, "completed", climbed.measured.accuracy(climbed.rung.length))

    def _completed(self, climbed: Climbed, exported: ExportReport) -> RunResult:
        session, job = self.session, self.session.job
        headline = scores_sentence(climbed.measured, climbed.rung.length)
        sentence = canonical_sentence(
            "done",
            job.alerts.language,
            None if climbed.shortfall else job.alerts.canonical_sentence,  # a shortfall must be read
            context=climbed.rung.length,
            scores=climbed.shortfall or headline,
        )
        triggers = ["score_floor"] if climbed.shortfall else []
        session.telegram("warn" if climbed.shortfall else "continue", climbed.shortfall, triggers=triggers, sentence=sentence)
        session.event("run/completed", achieved_context=climbed.rung.length, shortfall=climbed.shortfall)
        session.report("completed", sentence)
        return RunResult(
            status="completed",
            exit_code=0,
            run_dir=session.path,
            run_id=session.run_id,
            message=sentence,
            achieved_context=climbed.rung.length,
            target_context=job.scaling.target_context,
            scores={name: {str(length): v for length, v in s.items()} for name, s in climbed.measured.scores.items()},
            artifacts=exported.files,
        )


def scores_sentence(measured: Measured, length: int) -> str:
    """`passkey 100 % at 2048, perplexity 5.31`; the passkey's verdict as a word where it passes."""
    accuracy = measured.accuracy(length)
    words = [] if accuracy is None else [f"passkey {100 * accuracy:.0f} %{'' if accuracy >= PASSING_ACCURACY else ' (low)'}"]
    return ", ".join([*words, f"perplexity {measured.perplexity[length]:.2f}"])
