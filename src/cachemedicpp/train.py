"""The command `python -m cachemedicpp.train`: train a repair operator in a run directory. (specs/medic.md, 4.4, 4.5, 8.4)

Orchestration only: what a step computes is in `training`, what a phase of a run is in `phases`, what a checkpoint holds in
`training_state`. After every step, in this order: log line, checkpoints, `train_state_latest.pt`, heartbeat. A training that
is killed anywhere goes on from the last state and writes the same values again, on the CPU bit for bit.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachemedicpp.phases.arguments import phase_parser, resume_words

if TYPE_CHECKING:
    import torch

    from cachemedicpp.config.sections import RunConfig
    from cachemedicpp.phases.phase_run import PhaseRun
    from cachemedicpp.phases.running import EndReason
    from cachemedicpp.repair.operator import RepairOperator
    from cachemedicpp.training.checkpoint_keys import SaveReason
    from cachemedicpp.training.distillation import StepResult

LOG = "logs/train.jsonl"
CURVES = "metrics.jsonl"
CURVE_NAMES = ("loss_total", "loss_kd", "loss_id", "loss_contr", "rho_mean", "rho_p95")
"""What `modelwright runs show` and `runs export` see of a training, as `train/<name>`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 completed or nothing left to do, 3 paused, 1 failure, 2 bad flags or configuration."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = phase_parser(
        "train",
        "Train the repair operator of a run configuration; the base model stays frozen.",
        "a heartbeat, and the state to resume from, every N steps (default: the smaller of log_every and 10)",
    ).parse_args(words)
    from cachemedicpp.phases.running import guarded

    def start() -> int:
        from cachemedicpp.config.settings import load_run_config

        config = load_run_config(arguments.config)
        return train(config, arguments.config, arguments.run_dir, words, arguments.resume, arguments.heartbeat_every)

    return guarded(start)


def train(
    config: RunConfig,
    config_path: str | Path,
    run_dir: str | Path,
    words: Sequence[str] = (),
    resume: bool = True,
    heartbeat_every: int | None = None,
) -> int:
    """Train in `run_dir` and return the exit status. words: the flags as typed, for the record."""
    from cachemedicpp.phases.phase_run import PAUSE_ACKS
    from cachemedicpp.phases.running import run_phase
    from cachemedicpp.training.state import CHECKPOINT_FILES, latest_state, read_document
    from modelwright.errors import DamagedFileError

    folder = Path(run_dir).absolute()

    def same_state() -> None:
        from cachemedicpp.config.settings import check_same_config

        path = latest_state(folder)
        if path is not None:
            with contextlib.suppress(DamagedFileError):  # the phase meets it again and leaves it in its heartbeat
                check_same_config(config, read_document(path, "state")["config_hash"], path.name)

    def work(phase: PhaseRun) -> EndReason:
        return _Training(phase, config, heartbeat_every or max(1, min(config.train.log_every, 10))).run()

    return run_phase(
        "train",
        work,
        config=config,
        config_path=config_path,
        run_dir=folder,
        command=[sys.executable, "-m", "cachemedicpp.train", *words],
        resume_command=resume_words("train", str(config_path), str(run_dir)),
        resume=resume,
        owned=(*CHECKPOINT_FILES, LOG, CURVES, "logs/train_heartbeat.json*", f"control/{PAUSE_ACKS['train']}"),
        before_opening=same_state,
    )


class _Training:
    """One session of a training: counters, files, and what the heartbeat shows."""

    def __init__(self, phase: PhaseRun, config: RunConfig, heartbeat_every: int) -> None:
        self.phase, self.config, self.heartbeat_every = phase, config, heartbeat_every
        self.folder, self.settings = phase.folder, config.train
        self.step = 0
        self.tokens_since_log = self.session_tokens = 0
        self.corrupted_steps = 0
        self.repair_file: str | None = None
        self.rate: float | None = None
        self.saved_at = self.logged_at = phase.clock.monotonic()

    def run(self) -> EndReason:
        from cachemedicpp.training.state import latest_repair, latest_state, read_document

        path = latest_state(self.folder)
        state = None if path is None else read_document(path, "state")
        if state is not None:
            self._restore_counters(state)
        told: dict[str, Any] = {}
        if path is not None:
            self.phase.run.metrics().resumed(self.step)
            told = {"latest_train_state": self.phase.relative(path), "latest_repair_checkpoint": self.repair_file}
        elapsed = 0.0 if state is None else state["elapsed_wall_sec"]
        self.phase.begin(total=self.settings.steps, step=self.step, resumed_from=path, elapsed_before=elapsed, **told)
        with self._opened_log():
            if self.step >= self.settings.steps and latest_repair(self.folder) is not None:
                self._control_line("completed", only_once=True)
                return "already_completed"
            self._train(state, path)
            return "completed"

    def _train(self, state: Mapping[str, Any] | None, path: Path | None) -> None:
        import torch

        from cachemedicpp.config.settings import training_mixture_of
        from cachemedicpp.faults.injection import donor_cache
        from cachemedicpp.inputs.texts import load_text, training_line_count
        from cachemedicpp.inputs.token_stream import token_stream
        from cachemedicpp.phases.base_model import load_base_model
        from cachemedicpp.training.distillation import needs_donor, operator_of, optimizer_of, recipe_of, training_step
        from cachemedicpp.training.state import repair_path

        model, tokenizer = load_base_model(self.config)
        mixture = training_mixture_of(self.config)
        donor = None
        if needs_donor(mixture, self.config.corruption.params.targeted_base_type):
            donor = donor_cache(model, tokenizer, self.config.corruption.params.donor_prompt, self.config.repair.protect_layers)
        recipe = recipe_of(self.config, mixture, donor)
        lines = load_text(self.config.data, "train", limit=training_line_count(self.settings.steps))
        self.phase.run.update(training_text=lines.provenance.as_dict(), donor=None if donor is None else donor.as_dict())
        stream = token_stream(tokenizer, lines.items)
        self.operator = operator_of(self.config, model)
        self.optimizer = optimizer_of(self.operator, self.settings)
        self._say_what_can_be_reached()
        if state is not None and path is not None:
            self._restore_parameters(state, path)
        else:
            torch.manual_seed(self.config.seed)  # nothing draws from it; saved states are so alike in every process
        self.logged_at = self.phase.clock.monotonic()
        self.phase.pause_if_asked(self._save_for_pause)
        while self.step < self.settings.steps:
            began = self.phase.clock.monotonic()
            result = training_step(model, self.operator, self.optimizer, stream, recipe, self.step + 1)
            self._after_step(result, self.phase.clock.monotonic() - began)
            if self.step < self.settings.steps:
                self.phase.pause_if_asked(self._save_for_pause)
        if not repair_path(self.folder, self.step).exists():
            self._save_step("periodic_checkpoint")
        self._control_line("completed")

    def _after_step(self, result: StepResult, seconds: float) -> None:
        from cachemedicpp.phases.phase_run import SILENCE_S

        self.step = self.phase.step = result.step
        self.tokens_since_log += result.tokens
        self.session_tokens += result.tokens
        self.corrupted_steps += result.corruption["type"] != "none"
        last = result.step == self.settings.steps
        logs = last or result.step % self.settings.log_every == 0
        saves = last or result.step % self.settings.save_every == 0
        if logs:
            self._log(result, seconds)
        if saves:
            self._save_step("periodic_checkpoint")
        silent = self.phase.clock.monotonic() - self.saved_at >= SILENCE_S
        if logs or saves or silent or result.step % self.heartbeat_every == 0:
            latest = self._save_latest("periodic_checkpoint" if saves else "heartbeat")
            self.phase.beat(result.step, "heartbeat", **self._shown(latest), loss_total=result.loss_total)

    # --- what the run shows

    def _shown(self, state: Path) -> dict[str, Any]:
        return {
            "tokens_per_sec": self.rate,
            "gpu_mem_gb": self._gpu_memory(),
            "latest_repair_checkpoint": self.repair_file,
            "latest_train_state": self.phase.relative(state),
        }

    @contextlib.contextmanager
    def _opened_log(self) -> Iterator[None]:
        """Take back the lines of steps that will be made again, so that every step stands there once."""
        from modelwright.files import JsonlAppender, encode_line, read_jsonl, write_bytes

        path = self.folder / LOG
        found = read_jsonl(path, missing_ok=True)
        kept = [line for line in found.records if line.get("step", 0) <= self.step]
        if len(kept) < len(found.records) or found.torn_tail or found.damage:
            write_bytes(path, b"".join(map(encode_line, kept)))
        self._completed_is_logged = any(line.get("event") == "completed" for line in kept)
        with JsonlAppender(path) as self._appender:
            yield

    def _log(self, result: StepResult, seconds: float) -> None:
        now = self.phase.clock.monotonic()
        passed = now - self.logged_at
        self.rate = self.session_tokens / passed if passed > 0 else None
        values = result.values()
        self._append("train", {**values, "tokens_per_sec": self.rate, "gpu_mem_gb": self._gpu_memory(), "step_wall_sec": seconds})
        for name in CURVE_NAMES:
            if values[name] is not None:
                self.phase.run.metrics().log(f"train/{name}", values[name], step=result.step)
        self.logged_at, self.tokens_since_log, self.session_tokens = now, 0, 0
        if self.config.device != "cpu":
            import torch

            torch.cuda.reset_peak_memory_stats(self.config.device)
        rho = values["rho_mean"]
        seen = f"  rho {rho:.3f}" if rho is not None else ""
        print(f"step {result.step}/{self.settings.steps}  loss {result.loss_total:.5f}  kd {result.loss_kd:.5f}{seen}", flush=True)

    def _control_line(self, event: str, only_once: bool = False, **fields: Any) -> None:
        if not (only_once and self._completed_is_logged):
            self._append("train_control", {"event": event, **fields})

    def _append(self, phase: str, fields: Mapping[str, Any]) -> None:
        head = {"run_id": self.phase.run_id, "phase": phase, "timestamp_utc": self.phase.now(), "step": self.step}
        self._appender.append({**head, **fields})

    def _gpu_memory(self) -> float | None:
        """GiB, peak since the last log line; None on a CPU."""
        if self.config.device == "cpu":
            return None
        import torch

        return torch.cuda.max_memory_allocated(self.config.device) / 2**30

    def _say_what_can_be_reached(self) -> None:
        """The attainability bound and every setting that is most likely not meant. [C15]"""
        from cachemedicpp.config.rules import config_warnings
        from cachemedicpp.repair.attainability import attainability_warning, attainability_words

        head_dim, rank = self.operator.layout.head_dim, self.config.repair.rank
        print(attainability_words(head_dim, rank, self.operator.spec.family), flush=True)
        unreachable = attainability_warning(head_dim, rank, self.settings.alpha_contr)
        for sentence in ([] if unreachable is None else [unreachable]) + config_warnings(self.config):
            print(f"Warning: {sentence}", file=sys.stderr)

    # --- saving and restoring

    def _save_step(self, reason: SaveReason) -> Path:
        """`repair_step_<N>.pt` and `train_state_step_<N>.pt`."""
        from cachemedicpp.training.state import repair_path, save_repair, state_path, write_document

        path = repair_path(self.folder, self.step)
        save_repair(path, self.operator, step=self.step, config_hash=self.phase.config_hash, model_name=self.config.model.name)
        self.repair_file = self.phase.relative(path)
        state = state_path(self.folder, self.step)
        write_document(state, self._state(reason))
        return state

    def _save_latest(self, reason: SaveReason) -> Path:
        from cachemedicpp.training.state import FOLDER, LATEST, write_document

        path = self.folder / FOLDER / LATEST
        write_document(path, self._state(reason))
        self.saved_at = self.phase.clock.monotonic()
        return path

    def _save_for_pause(self, reason: SaveReason) -> Path | None:
        """The state of this step in all its files, and the control line; nothing but the line before the first step."""
        state = None
        if self.step > 0:
            state = self._save_step(reason)
            latest = self._save_latest(reason)
            self.phase.tell(**self._shown(latest))
        self._control_line("paused", reason=reason, resume_state=None if state is None else self.phase.relative(state))
        return state

    def _state(self, reason: SaveReason) -> dict[str, Any]:
        import torch

        from cachemedicpp import seeds

        document: dict[str, Any] = {
            "step": self.step,
            "reason": reason,
            "timestamp_utc": self.phase.now(),
            "config_hash": self.phase.config_hash,
            "repair_state": self.operator.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "data_gen_state": {
                "seed": self.config.seed + seeds.TRAINING_DATA_OFFSET,
                "stream": seeds.TRAINING_TEXT,
                "next_step": self.step + 1,
            },
            "torch_rng_state": torch.get_rng_state(),
            "corruption_state": {"seed": self.config.seed, "next_step": self.step + 1, "corrupted_steps": self.corrupted_steps},
            "tokens_since_log": self.tokens_since_log,
            "elapsed_wall_sec": self.phase.elapsed(),
            "latest_repair_checkpoint": self.repair_file,
        }
        if self.config.device != "cpu":
            document["torch_cuda_rng_state_all"] = torch.cuda.get_rng_state_all()
        return document

    def _restore_counters(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        self.tokens_since_log = state["tokens_since_log"]
        self.corrupted_steps = state["corruption_state"]["corrupted_steps"]
        self.repair_file = state["latest_repair_checkpoint"]

    def _restore_parameters(self, state: Mapping[str, Any], path: Path) -> None:
        import torch

        from cachemedicpp.training.state import load_parameters

        load_parameters(self.operator, state["repair_state"], path)
        self.optimizer.load_state_dict(state["optimizer_state"])
        torch.set_rng_state(state["torch_rng_state"])
        saved = state.get("torch_cuda_rng_state_all")
        if saved is not None and len(saved) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(saved)

    operator: RepairOperator
    optimizer: torch.optim.Optimizer


if __name__ == "__main__":
    sys.exit(main())
