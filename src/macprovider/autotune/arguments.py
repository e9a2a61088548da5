"""The flags of `macprovider-cli autotune`, and how a command line becomes `Options`: every fault at once. (specs/autotune.md, 4)"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from macprovider import places
from macprovider.autotune import parse_rules as rules
from macprovider.autotune.engine import with_engine
from macprovider.autotune.html_rule import page_path
from macprovider.autotune.measuring.choose import Objective
from macprovider.autotune.options import DEFAULTS, Inputs, Options
from macprovider.autotune.parse_rules import Faults
from macprovider.engines.base import EngineName
from macprovider.engines.choice import NAMES, known_engine
from macprovider.weights.candidates import built_in, in_size_range
from modelwright.errors import ConfigError, Fault, UsageError

EXIT_CODES_HELP = """exit codes: 0 a model was chosen and tuned, or a plan or report was printed; 1 --check-stale found changes;
2 wrong flags or settings; 3 nothing fits; 4 another provider is in the way; 5 out of time before a model was chosen;
6 out of time with a partial recommendation; 7 weights are not what they should be; 8 tuned, but the configuration could not be
written; 70 a defect; 130 interrupted.

examples:
  macprovider-cli autotune --target-context 4000
  macprovider-cli autotune --candidate-models modelwright/tiny-5m,modelwright/tiny-0.4m --target-context 256 --max-tokens 16
  macprovider-cli autotune --target-context 4000 --max-model-size 8B --apply --drain
  macprovider-cli autotune experiment order-bias --model modelwright/tiny-0.4m --target-context 256 --max-tokens 16"""

VALUES: dict[str, tuple[str, str]] = {
    "target-context": ("N", "tokens of prompt and answer that the recommendation must hold for (default 2000)"),
    "candidate-models": ("IDS", "model ids with commas between them, tried in this very order (default: the built-in list)"),
    "max-model-size": ("Nb", "of the built-in list, only models of at most so many billion parameters, such as 8B"),
    "min-model-size": ("Nb", "of the built-in list, only models of at least so many billion parameters"),
    "kv-bits-axis": ("CSV", "settings of the cache to try: unset, 4, 8 (default unset,4,8)"),
    "repair": ("PATH", "a CacheMedic checkpoint: measure every quantised cache without it, then with it (engine transformers)"),
    "max-batch-axis": ("CSV", "numbers of requests at the same time to try (default 1,2)"),
    "max-context-axis": ("CSV", "context caps to try, in tokens, none below the target (default: the target alone)"),
    "stage1-replicates": ("N", "measured requests for each candidate model (default 1)"),
    "stage2-replicates": ("N", "measured requests for each cell of knobs (default 3)"),
    "gate-ttft-ms": ("N", "the first token must come within so many milliseconds (default 60000)"),
    "tps-tie-epsilon": ("F", "throughputs within this fraction are a tie (default 0.02)"),
    "max-duration": ("S", "seconds for the whole run, fetching included (default 7200)"),
    "drain-grace": ("S", "seconds a provider gets to end (default 30 for a live one, 10 for a candidate)"),
    "port": ("N", "port of the candidates, on 127.0.0.1 (default 18080)"),
    "db-path": ("P", "the tuning database (default ~/.config/macprovider/autotune.sqlite)"),
    "retain-runs": ("N", "runs that the database keeps (default 50)"),
    "config": ("P", "file that --apply edits (default ~/.config/macprovider/config.yaml, or MACPROVIDER_CONFIG)"),
    "ready-timeout": ("S", "seconds a candidate gets until it is ready (default 600)"),
    "request-timeout": ("S", "seconds for one request (default: 180, or the gate and two minutes, whichever is more)"),
    "max-tokens": ("N", "tokens of each answer, part of the target context (default 48)"),
    "engine": ("NAME", f"{', '.join(NAMES)} (default auto: the fastest that can hold every candidate, decided once)"),
    "objective": (
        "WHAT",
        "what decides a tie in tokens/s: tps (the earlier first token) or capacity (more concurrent tokens) (default tps)",
    ),
    "min-agreement": ("F", "with --quality-gate: share of greedy answers that must equal those of the unquantised cache (default 0.9)"),
    "max-kl": ("F", "with --quality-gate: greatest mean divergence of the next token, nats (default 0.02)"),
    "html": ("FILE", "also write the run's report with its plots to this file, one HTML page; with --report-only the stored run's"),
}
SWITCHES: dict[str, str] = {
    "json": "also print the result as one JSON document, last on stdout",
    "apply": "write the recommendation into the configuration file, with a backup",
    "drain": "stop a provider that is running, and put it back at the end",
    "restart-foreground": "with --drain: start a provider that ran in a terminal again at the end",
    "dry-run": "print the plan and exit; nothing is started, fetched or written",
    "report-only": "print the report of the newest stored run and exit",
    "verbose": "tell every request and every load time on stderr",
    "quality-gate": "refuse settings of the cache whose answers differ too much from those of the unquantised cache",
    "compare": "print each recommended value beside the previous recommendation",
    "prune": "end a cell early when its other requests cannot make it the best any more",
    "resume": "do not probe again what an unfinished run with the same settings found infeasible",
    "show-pareto": "print the biggest, the fastest and the balanced stored model side by side",
    "check-stale": "say whether program, system or hardware changed since the newest recommendation, and exit",
}


class WrongArguments(ConfigError):
    """Every fault of a command line; `inputs`, `db_path` (None without a home folder) and `switches` are what could be understood
    all the same.
    """

    def __init__(self, faults: Sequence[Fault], inputs: Inputs, db_path: Path | None, switches: dict[str, bool]) -> None:
        super().__init__(faults)
        self.inputs, self.db_path, self.switches = inputs, db_path, switches


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def build_parser(prog: str = "macprovider-cli autotune") -> argparse.ArgumentParser:
    """All flags as text; the rules come afterwards, so that every fault can be told."""
    parser = _Parser(
        prog=prog,
        description="Find the largest model that this machine can serve, then its best settings. Nothing is changed without --apply.\n"
        "`macprovider-cli autotune experiment NAME` tests the method itself; see its --help.",
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, (metavar, what) in VALUES.items():
        parser.add_argument(f"--{name}", metavar=metavar, help=what)
    for name, what in SWITCHES.items():
        parser.add_argument(*(("-v", "--verbose") if name == "verbose" else (f"--{name}",)), action="store_true", help=what)
    return parser


def parse(argv: Sequence[str], parser: argparse.ArgumentParser | None = None) -> tuple[Options, argparse.Namespace]:
    """The options of a command line, and the bare namespace for flags that a caller added. Raises WrongArguments."""
    parser = parser or build_parser()
    faults = Faults()
    try:
        given, rest = parser.parse_known_args(list(argv))
    except UsageError as error:
        _argparse_fault(faults, str(error))
        given, rest = _what_is_readable(parser, argv)
    for word in rest:
        _unknown(faults, parser, word)
    _home(faults)
    values = _values(faults, given)
    switches: dict[str, Any] = {name.replace("-", "_"): bool(getattr(given, name.replace("-", "_"))) for name in SWITCHES}
    for name in ("dry-run", "check-stale"):
        if given.html is not None and switches[_attribute(name)]:
            faults.add("--html", f"--{name} beside it, which measures nothing", "a run, or --report-only", f"Leave --html or --{name} out")
    if faults:
        raise WrongArguments(
            faults, Inputs.of(values), values["db_path"] or _path(Faults(), "--db-path", None, places.database_path), switches
        )
    options = Options(**values, **switches)
    return (with_engine(options) if options.engine == "auto" else options), given


def _values(faults: Faults, given: argparse.Namespace) -> dict[str, Any]:
    """Every value after its rule; None where a fault was found."""

    def text(name: str) -> str:
        value = getattr(given, name)
        return str(DEFAULTS[name]) if value is None else str(value)

    def whole(name: str, least: int, greatest: int = rules.LARGEST) -> int | None:
        return rules.whole(faults, _flag(name), text(name), least, greatest)

    values: dict[str, Any] = {
        "target_context": whole("target_context", 1),
        "stage1_replicates": whole("stage1_replicates", 1),
        "stage2_replicates": whole("stage2_replicates", 1),
        "gate_ttft_ms": whole("gate_ttft_ms", 1),
        "tps_tie_epsilon": rules.real(faults, "--tps-tie-epsilon", text("tps_tie_epsilon")),
        "max_duration": whole("max_duration", 1),
        "port": whole("port", 1, 65535),
        "retain_runs": whole("retain_runs", 1),
        "ready_timeout": rules.real(faults, "--ready-timeout", text("ready_timeout"), above=0, most=rules.LONGEST_S),
        "max_tokens": whole("max_tokens", 1),
        "kv_bits_axis": rules.kv_bits_axis(faults, "--kv-bits-axis", text("kv_bits_axis")),
        "max_batch_axis": rules.batch_axis(faults, "--max-batch-axis", text("max_batch_axis")),
        "drain_grace": None if given.drain_grace is None else rules.whole(faults, "--drain-grace", given.drain_grace, 0),
        "db_path": _path(faults, "--db-path", given.db_path, places.database_path),
        "config": _path(faults, "--config", given.config, places.config_path),
        "objective": _choice(faults, "--objective", text("objective"), get_args(Objective)),
        "min_agreement": rules.real(faults, "--min-agreement", text("min_agreement"), most=1),
        "max_kl": rules.real(faults, "--max-kl", text("max_kl")),
    }
    engine = _engine(faults, text("engine"))
    values["repair"] = _repair(faults, given.repair, values["kv_bits_axis"], None if engine == "auto" else engine)
    taken = (values["db_path"], values["config"], values["repair"], *_beside(values["db_path"]))
    values["html"] = page_path(faults, given.html, taken=taken)
    values["max_context_axis"] = rules.context_axis(faults, "--max-context-axis", text("max_context_axis"), values["target_context"])
    values["request_timeout"] = _request_timeout(faults, given.request_timeout, values["gate_ttft_ms"])
    warnings: list[str] = []
    values["candidate_models"] = _candidates(faults, given, "transformers" if engine == "auto" else engine, warnings)
    values["engine"] = None if faults and engine == "auto" else engine
    values["warnings"] = tuple(warnings)
    target, answer = values["target_context"], values["max_tokens"]
    if target is not None and answer is not None and answer >= target:
        faults.add(
            "--max-tokens",
            str(answer),
            f"less than the target context, {target}",
            "Leave room for a prompt: a smaller --max-tokens will do",
        )
    return values


def _candidates(faults: Faults, given: argparse.Namespace, engine: EngineName | None, warnings: list[str]) -> tuple[str, ...] | None:
    sizes = {flag: getattr(given, _attribute(flag)) for flag in ("--max-model-size", "--min-model-size")}
    named = [flag for flag, text in sizes.items() if text is not None]
    most, least = (None if text is None else rules.size_b(faults, flag, text) for flag, text in sizes.items())
    if most is not None and least is not None and least > most:
        faults.add("--min-model-size", f"{least:g}B", f"at most --max-model-size, {most:g}B")
        return None
    if given.candidate_models is not None:
        if named:
            warnings.append(f"warning: --candidate-models wins; {' and '.join(named)} {'is' if len(named) == 1 else 'are'} not used.")
        return rules.models(faults, "--candidate-models", given.candidate_models)
    if engine is None or any(text is not None and value is None for text, value in zip(sizes.values(), (most, least), strict=True)):
        return None
    listed = built_in(engine)
    kept = tuple(candidate.id for candidate in in_size_range(listed, largest_b=most, smallest_b=least))
    if not kept:
        span = ", ".join(f"{c.params_b:g}B" for c in listed)
        faults.add(
            " and ".join(named),
            "no model of that size in the built-in list",
            f"sizes that keep one of {span}",
            "Or name --candidate-models",
        )
        return None
    return kept


def _request_timeout(faults: Faults, text: str | None, gate_ms: int | None) -> float | None:
    if text is not None:
        return rules.real(faults, "--request-timeout", text, above=0, most=rules.LONGEST_S)
    return None if gate_ms is None else max(180.0, gate_ms / 1000 + 120)


def _beside(database: Path | None) -> list[Path]:
    """The files that SQLite keeps beside a database."""
    return [] if database is None else [database.with_name(database.name + end) for end in ("-wal", "-shm", "-journal")]


def _engine(faults: Faults, name: str) -> EngineName | Literal["auto"] | None:
    try:
        return known_engine(name)
    except UsageError as error:
        found = re.fullmatch(r"--engine: found (.+?); allowed: (.+?)\.(?: (.*))?", str(error))
        if found:
            faults.add("--engine", found[1], found[2], found[3] or "")
        else:
            faults.add("--engine", repr(name), ", ".join(NAMES), str(error))
        return None


def _choice(faults: Faults, flag: str, text: str, allowed: Sequence[str]) -> str | None:
    if text in allowed:
        return text
    faults.add(flag, repr(text), ", ".join(allowed))
    return None


def _path(faults: Faults, flag: str, text: str | None, default: Callable[[], Path]) -> Path | None:
    if text is not None and (not text.strip() or "\0" in text):
        faults.add(flag, repr(text), "a path")
        return None
    try:
        return default() if text is None else Path(text).expanduser().absolute()
    except RuntimeError:  # `~` or `~name` of nobody
        if text is not None:
            faults.add(flag, repr(text), "a path below a home folder that exists")
        return None


def _home(faults: Faults) -> None:
    try:
        Path.home()
    except RuntimeError:
        faults.add("HOME", "no home folder for this user", "a folder for logs, settings and the database", "Set HOME")


def _repair(faults: Faults, text: str | None, kv_bits_axis: tuple[int | None, ...] | None, engine: EngineName | None) -> Path | None:
    if text is None:
        return None
    from macprovider.autotune.repair_rule import FLAG, repair_checkpoint

    path = _path(faults, FLAG, text, Path)
    return None if path is None else repair_checkpoint(faults, path, kv_bits_axis, engine)


def _argparse_fault(faults: Faults, message: str) -> None:
    match = re.match(r"argument (\S+): (.*)", message)
    flag, what = (match[1].split("/")[-1], match[2]) if match else ("arguments", message)
    extra = re.fullmatch(r"ignored explicit argument (.*)", what)
    if extra:
        faults.add(flag, extra[1], "the flag alone, it takes no value")
        return
    faults.add(flag, "no value" if "expected one argument" in what else what, "one value behind the flag")


def _what_is_readable(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """After a flag without its value: the rest of the command line, word by word."""
    given = parser.parse_args([])
    words, unknown = list(argv), []
    for place, word in enumerate(words):
        flag, _, value = word.partition("=")
        if flag.startswith("--") and flag[2:] in VALUES:
            following = words[place + 1] if place + 1 < len(words) and not words[place + 1].startswith("--") else None
            setattr(given, _attribute(flag), value or following)
        elif word == "-v" or word[2:] in SWITCHES:
            setattr(given, "verbose" if word == "-v" else _attribute(word), True)
        elif flag.startswith("--") and flag not in parser._option_string_actions:
            unknown.append(word)
    return given, unknown


def _unknown(faults: Faults, parser: argparse.ArgumentParser, word: str) -> None:
    known = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(word.partition("=")[0], known, n=1, cutoff=0.6)
    faults.add("arguments", repr(word), "the flags that --help lists", f"Did you mean {near[0]}?" if near else "")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _attribute(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")
