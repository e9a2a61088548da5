"""The command line of `python -m scaler_wizard.cli`: its flags, and the settings each one stands for.

Flags are read as text and checked together with every other setting in `resolve`, so that all faults are reported at once.
Flags whose engine is not part of this version are known by name and refused, never ignored. Standard library only.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from modelwright.errors import ConfigError, Fault

EXIT_CODES = """\
exit codes:
  0 done                            5 model or data could not be loaded
  1 unexpected, or the directory    6 stopped by the circuit breaker
    has a live writer               7 aborted by a human, SIGINT or SIGTERM, at any moment
  2 usage or configuration          8 rollback or checkpoint failure
  3 contract refused                9 paused; `modelwright runs resume RUN` goes on
  4 hardware cannot hold the plan
"""
DESCRIPTION = """\
Stretch the context window of a causal language model step by step, with adapters, evidence at every rung and recorded
human consent. The base model does not grow: LoRA trains a small share of its parameters (typically under 1 %, more when
embeddings and norms are trained), and every run prints the actual share.
"""
EXAMPLE = """\
example:
  python -m scaler_wizard.cli \\
    --base-model TinyLlama/TinyLlama-1.1B-Chat-v1.0 \\
    --dataset local://data/instruction.jsonl \\
    --target-context 16384 \\
    --template balanced_scaling \\
    --output-dir runs/tinyllama-balanced

"""

RUNTIMES, LATER_RUNTIMES = ("auto", "cpu", "single_gpu"), ("multi_gpu", "remote")
RUNTIME_WORDS = f"{', '.join(RUNTIMES)} ({' and '.join(LATER_RUNTIMES)} are not part of this version)"
DESTINATION_WORDS = "local, http (websocket is not part of this version)"

# flag -> dotted path of the setting it stands for; the value is read as text and typed by the job schema
VALUE_FLAGS: dict[str, tuple[str, str, str]] = {
    # flag: (path, metavar, help)
    "--base-model": ("model.base_model", "MODEL", "local directory with config.json, or hub id (required)"),
    "--tokenizer": ("model.tokenizer", "MODEL", "tokenizer to use instead of the base model's own"),
    "--revision": ("model.revision", "REV", "branch, tag or commit of a hub model"),
    "--runtime": ("model.runtime", "NAME", RUNTIME_WORDS),
    "--template": ("scaling.template", "ID", "scaling template; auto asks the recommender (default)"),
    "--use-case": ("scaling.use_case", "NAME", "default, long_context, reasoning or creative: what auto chooses for"),
    "--strategy": ("scaling.strategy", "NAME", "lora (default), qlora, or one that a package provides"),
    "--lora-rank": ("scaling.lora_rank", "N", "1 to 512; adaptive when left out"),
    "--lora-alpha": ("scaling.lora_alpha", "N", "adaptive when left out"),
    "--lora-dropout": ("scaling.lora_dropout", "X", "adaptive when left out"),
    "--capacity-multiplier": ("scaling.capacity_multiplier", "X", "wanted capacity, for the adaptive rank (1.0)"),
    "--train-embeddings": ("scaling.train_embeddings", "WHEN", "auto (from 4x on), on or off; norms included"),
    "--target-context": ("scaling.target_context", "TOKENS", "2048 to 131072; base context x template when left out"),
    "--growth": ("scaling.growth", "NAME", "double (default), single_shot or two_stage"),
    "--context-method": ("scaling.context_method", "ID", "auto, linear, ntk, dynamic_ntk, yarn, or one that a package provides"),
    "--yarn-ramp": ("scaling.yarn_ramp", "RAMP", "index (as transformers, default) or paper"),
    "--persona": ("safety.persona", "NAME", "conservative, balanced (default) or experimental"),
    "--breaker-mode": ("safety.circuit_breaker.mode", "MODE", "classic (default) or robust"),
    "--window-steps": ("safety.circuit_breaker.window_steps", "N", "evaluations the breaker looks back (5 to 100)"),
    "--max-perplexity-delta": ("safety.circuit_breaker.max_perplexity_delta", "X", "perplexity rise per evaluation that trips"),
    "--min-accuracy": ("safety.circuit_breaker.min_accuracy", "X", "probe accuracy floor, 0 to 1"),
    "--telemetry-destination": ("safety.telemetry.destination", "NAME", f"{DESTINATION_WORDS}; local when left out"),
    "--telemetry-endpoint": ("safety.telemetry.endpoint", "URL", "address that receives events when the destination is http"),
    "--steps-per-rung": ("training.steps_per_rung", "N", "optimizer steps per rung (400)"),
    "--learning-rate": ("training.learning_rate", "X", "(2e-5)"),
    "--micro-batch-size": ("training.micro_batch_size", "N", "sequences per forward pass (1)"),
    "--gradient-accumulation": ("training.gradient_accumulation", "N", "forward passes per optimizer step (1)"),
    "--micro-batch-tokens": ("training.micro_batch_tokens", "N", "tokens per forward pass; sets the micro-batch of every rung"),
    "--batch-tokens": ("training.batch_tokens", "N", "tokens per optimizer step; sets the accumulation of every rung"),
    "--max-train-tokens": ("training.max_train_tokens", "N", "upper limit of trained tokens over all rungs"),
    "--native-fraction": ("training.native_fraction", "X", "share of tokens trained at the base length (0.2)"),
    "--precision": ("training.precision", "NAME", "auto, fp32 or bf16"),
    "--probe-samples": ("evaluation.probe_samples", "N", "samples per probe and length (20)"),
    "--eval-every": ("evaluation.eval_every", "STEPS", "steps between perplexity evaluations (25)"),
    "--gate": ("gate.mode", "MODE", "contract (default), prompt or cockpit"),
    "--gate-timeout": ("gate.timeout_s", "SECONDS", "how long a gate waits before the run pauses (120)"),
    "--seed": ("seed", "N", "(42)"),
    "--output-dir": ("output_dir", "DIR", "run directory; runs/<date>-<model>-<template> when left out"),
}
SWITCHES: dict[str, tuple[str, bool, str]] = {
    "--resize-embeddings": ("model.resize_embeddings", True, "grow the embeddings when the tokenizer has more ids"),
    "--calibrate": ("evaluation.calibrate", True, "measure perplexity on synthetic prompts after each expansion"),
    "--merge": ("export.merge", True, "also export a model with the adapters merged in"),
    "--hard-stop": ("safety.circuit_breaker.hard_stop", True, "the breaker stops the run"),
    "--no-hard-stop": ("safety.circuit_breaker.hard_stop", False, "the breaker only warns (never for NaN)"),
    "--no-adaptive-rank": ("scaling.adaptive_rank", False, "rank and alpha from the template"),
    "--prefer-low-memory": ("scaling.prefer_low_memory", True, "more dropout in the adaptive rule; suggests qlora"),
}
RUN_FLAGS: dict[str, str] = {
    "--dry-run": "check everything, write config.resolved.yaml, hardware.json and plan.json, train nothing",
    "--resume": "go on from the last good state of --output-dir",
    "--strict": "warnings are errors",
    "--offline": "no network: models and data must be on this machine",
    "--json": "print a machine-readable summary on standard output (telegrams go to standard error)",
}
LATER_FLAGS: dict[str, tuple[str, bool]] = {
    # flag: (what it would come with, takes a value)
    "--weak-supervision": ("weak supervision (Snorkel with at least 3 labelling functions)", False),
    "--labeling-functions": ("weak supervision (Snorkel with at least 3 labelling functions)", True),
    "--teacher-model": ("knowledge preservation (distillation from a teacher)", True),
    "--distill-temperature": ("knowledge preservation (distillation from a teacher)", True),
    "--alpha-ce": ("knowledge preservation (distillation from a teacher)", True),
    "--alpha-student": ("knowledge preservation (distillation from a teacher)", True),
    "--authorized-keys": ("signed contracts", True),
    "--share": ("opt-in sharing of results", False),
    "--pose": ("PoSE training (skipping position ids)", False),
}
ALLOWED_OF_PATH: dict[str, str] = {
    "model.base_model": "a local directory with config.json or a hub id",
    "model.runtime": RUNTIME_WORDS,
    "safety.telemetry.destination": DESTINATION_WORDS,
}
SCHEDULE_ALLOWED = "lengths in tokens, whole numbers separated by commas, for example 4096,8192,16384"
LATER_ALLOWED = "nothing in this version, which does not have it"
FLAG_OF_PATH: dict[str, str] = {
    **{path: flag for flag, (path, _, _) in VALUE_FLAGS.items()},
    "scaling.context_schedule": "--context-schedule",
    "scaling.method_params": "--method-params",
    "dataset": "--dataset",
    "dataset.identifier": "--dataset",
    "dataset.source": "--dataset",
    "dataset.weak_supervision": "--weak-supervision",
    "distillation.teacher_model": "--teacher-model",
    "probes": "--probes",
}


@dataclass(frozen=True)
class Arguments:
    """A parsed command line. `settings` is nested like the job schema and holds only what was given, as text or plain data."""

    settings: dict[str, Any] = field(default_factory=dict)
    dataset: str | None = None
    config: str | None = None
    contract: str | None = None
    dry_run: bool = False
    resume: bool = False
    strict: bool = False
    offline: bool = False
    json_output: bool = False
    log_level: str = "info"
    faults: tuple[Fault, ...] = ()


class _Parser(argparse.ArgumentParser):
    """Raises ConfigError instead of printing usage and exiting, so that the fault is reported together with the others."""

    def error(self, message: str) -> Any:
        raise ConfigError([Fault("command line", message, "see --help", "correct the command")])


def build_parser() -> argparse.ArgumentParser:
    """The parser; every flag of LATER_FLAGS is known but hidden from --help."""
    parser = _Parser(
        prog="python -m scaler_wizard.cli",
        description=DESCRIPTION,
        epilog=EXAMPLE + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for flag, (_, metavar, text) in VALUE_FLAGS.items():
        parser.add_argument(flag, metavar=metavar, help=text.replace("%", "%%"), default=None)
    parser.add_argument("--context-schedule", metavar="LIST", help="comma-separated lengths in tokens, e.g. 4096,8192,16384")
    parser.add_argument("--dataset", metavar="URI", help="hf://, local:// or synthetic://; synthetic://mixed when left out")
    parser.add_argument("--probes", metavar="LIST", help="comma-separated probes to run besides the scheduled ones")
    parser.add_argument("--method-params", metavar="KEY=VALUE", action="append", default=[], help="parameter of the context method")
    parser.add_argument("--set", metavar="PATH=VALUE", action="append", default=[], help="any setting, e.g. training.warmup_steps=10")
    for flag, (_, _, text) in SWITCHES.items():
        parser.add_argument(flag, action="store_true", help=text.replace("%", "%%"))
    parser.add_argument("--config", metavar="FILE", help="job document (YAML or JSON); flags override it")
    parser.add_argument("--contract", metavar="FILE", help="human contract (config/human_contract.yaml)")
    parser.add_argument("--log-level", metavar="LEVEL", default="info", help="debug, info, warning or error")
    for flag, text in RUN_FLAGS.items():
        parser.add_argument(flag, action="store_true", help=text)
    for flag, (_, takes_value) in LATER_FLAGS.items():
        if takes_value:
            parser.add_argument(flag, help=argparse.SUPPRESS)
        else:
            parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    return parser


def parse(argv: Sequence[str]) -> Arguments:
    """Read a command line; what is wrong with it is kept in `.faults`, to be reported with the faults of the settings.

    Raises ConfigError only when the line cannot be read at all (a flag without its value), and SystemExit(0) for --help.
    """
    namespace, unknown = build_parser().parse_known_args(list(argv))
    given = vars(namespace)
    faults = [
        _unknown_flag(word)
        for index, word in enumerate(unknown)
        if word.startswith("-") or index == 0 or not unknown[index - 1].startswith("-")  # not the value of an unknown flag
    ]
    settings: dict[str, Any] = {}
    for text in given["set"]:
        _apply_override(settings, text, faults)
    for flag, (path, _, _) in VALUE_FLAGS.items():
        value = given[_name(flag)]
        if value is not None:
            put(settings, path, value)
    for flag, (path, switch, _) in SWITCHES.items():
        if given[_name(flag)]:
            put(settings, path, switch)
    if given["hard_stop"] and given["no_hard_stop"]:
        faults.append(Fault("--hard-stop", "together with --no-hard-stop", "one of the two", "drop one"))
    if given["context_schedule"] is not None:
        put(settings, "scaling.context_schedule", split_list(given["context_schedule"]))
    if given["probes"] is not None:
        put(settings, "probes", split_list(given["probes"]))
    parameters = _key_values("--method-params", given["method_params"], faults)
    if parameters:
        put(settings, "scaling.method_params", parameters)
    for flag, (engine, _) in LATER_FLAGS.items():
        if given[_name(flag)]:
            faults.append(Fault(flag, "a flag of a later version", LATER_ALLOWED, f"It comes with {engine}; leave it out"))
    if given["log_level"] not in ("debug", "info", "warning", "error"):
        faults.append(Fault("--log-level", repr(given["log_level"]), "debug, info, warning or error"))
    return Arguments(
        settings=settings,
        dataset=given["dataset"],
        config=given["config"],
        contract=given["contract"],
        dry_run=given["dry_run"],
        resume=given["resume"],
        strict=given["strict"],
        offline=given["offline"],
        json_output=given["json"],
        log_level=given["log_level"],
        faults=tuple(faults),
    )


def put(settings: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path of a nested dict."""
    *sections, name = path.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
    settings[name] = value


def split_list(text: str) -> list[str]:
    """`a, b,,c` as ["a", "b", "c"]."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _apply_override(settings: dict[str, Any], text: str, faults: list[Fault]) -> None:
    from modelwright.config import parse_override

    try:
        path, value = parse_override(text)
    except ConfigError as error:
        faults.extend(Fault(f"--set {fault.path}", fault.found, fault.allowed, fault.todo) for fault in error.faults)
        return
    if path[0] == "contract":
        faults.append(Fault(f"--set {text}", "a field of the contract", "settings only", "edit the contract file"))
        return
    name = ".".join(path)
    if not isinstance(value, dict) and any(known.startswith(f"{name}.") for known in FLAG_OF_PATH):
        todo = f"name one setting of it, as in --set {next(known for known in FLAG_OF_PATH if known.startswith(f'{name}.'))}=…"
        faults.append(Fault(f"--set {text}", "one value for a whole section", "a mapping of settings", todo))
        return
    try:
        put(settings, name, value)
    except (AttributeError, TypeError):
        faults.append(Fault(f"--set {text}", "a path below a value that another --set has set", "one value per path", "drop one"))


def _key_values(flag: str, texts: Sequence[str], faults: list[Fault]) -> dict[str, Any]:
    from modelwright.config import parse_override

    values: dict[str, Any] = {}
    for text in texts:
        try:
            path, value = parse_override(text)
        except ConfigError:
            faults.append(Fault(f"{flag} {text}", "no KEY=VALUE", "KEY=VALUE, for example beta_fast=32"))
            continue
        values[".".join(path)] = value
    return values


def _unknown_flag(word: str) -> Fault:
    known = [*VALUE_FLAGS, *SWITCHES, *RUN_FLAGS, "--context-schedule", "--dataset", "--probes", "--method-params", "--set"]
    known += ["--config", "--contract", "--log-level", "--help"]
    close = get_close_matches(word.split("=")[0], known, n=1)
    todo = f"did you mean {close[0]}?" if close else "see --help"
    return Fault(word, "an unknown argument", "the flags that --help lists", todo)


def _name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")
