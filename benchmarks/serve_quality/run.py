"""How much a quantised KV cache changes what each engine answers: the measure of `autotune --quality-gate`, on more prompts.

    python -m benchmarks.serve_quality.run [--quick] [--model modelwright/tiny-5m] [--engines …] [--prompts 48] [--out result.json]

Every engine is served with its cache unquantised, at 8 and at 4 bits, and answers the same prompts greedily. `agreement` is the share of
answers that are the same to the last token, `kept` the share of tokens before the first difference, `kl` a lower bound of the
divergence in nats per token; each against the same engine's unquantised cache and, beside it, against the transformers
engine's. An engine that is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import table, write_result
from benchmarks.serve_common.servers import ours, running

from macprovider.autotune.measuring.prompts import Sizing
from macprovider.autotune.measuring.quality import Spoken, compare, quality_answer, quality_prompts, speak_all
from macprovider.autotune.measuring.request import StreamingRequest, get_json
from macprovider.autotune.watch import Watch
from modelwright.clock import SYSTEM_CLOCK
from modelwright.loading import resolve_model

ENGINES = ("transformers", "openvino", "llamacpp")
SETTINGS = (None, 8, 4)
COLUMNS = ["engine", "cache", "agreement", "kept", "kl", "agreement_16", "kept_16", "bytes_per_token"]
TIMEOUT_S = 300.0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four prompts of 128 tokens, transformers alone")
    parser.add_argument("--model", default="modelwright/tiny-5m")
    parser.add_argument("--engines", nargs="+", choices=ENGINES)
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--context", type=int, help="tokens of prompt and answer")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    given = parser.parse_args(arguments)
    given.engines = given.engines or (["transformers"] if given.quick else list(ENGINES))
    given.prompts = given.prompts or (4 if given.quick else 48)
    given.context = given.context or (128 if given.quick else 480)
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    given = parse(arguments)
    rows: list[dict[str, Any]] = []
    left_out = [f"{engine}: not installed, left out" for engine in given.engines if not installed(engine)]
    plain: list[Spoken] | None = None
    with tempfile.TemporaryDirectory() as scratch:
        for engine in filter(installed, given.engines):
            own: list[Spoken] | None = None
            for kv_bits in SETTINGS:
                answers, facts = ask(engine, kv_bits, given, Path(scratch) / "server.log")
                own = own or answers
                plain = plain or answers
                rows.append(row(engine, kv_bits, answers, own, plain, facts))
                print(rows[-1], flush=True)
    print(table(rows, COLUMNS))
    settings = {name: value for name, value in vars(given).items() if name != "out"}
    write_result(given.out, benchmark="serve_quality", settings=settings, results=rows, left_out=left_out)
    return 0


def installed(engine: str) -> bool:
    """Whether the engine's package or program is here."""
    if engine == "llamacpp":
        return shutil.which("llama-server") is not None
    return importlib.util.find_spec({"openvino": "openvino_genai"}.get(engine, engine)) is not None


def ask(engine: str, kv_bits: int | None, given: argparse.Namespace, log: Path) -> tuple[list[Spoken], dict[str, Any]]:
    """The answers of one server, and what its engine says of itself."""
    folder = resolve_model(given.model).path
    if folder is None:
        raise SystemExit(f"{given.model} is not on this machine; fetch it first.")
    command, model = ours(folder, given.context, 1, engine=engine, kv_bits=kv_bits)
    watch = Watch(None, SYSTEM_CLOCK)
    with running(engine, command, model, log, threads=1) as server:
        port = int(server.url.rpartition(":")[2])
        text = quality_prompts(Sizing(), given.context, 1)[0][: given.context]
        seen = StreamingRequest(port, model, text, 4, TIMEOUT_S).wait(watch).replicate.prompt_tokens
        texts = quality_prompts(Sizing().corrected(len(text), seen), given.context, given.prompts)
        answers = speak_all(port, model, texts, quality_answer(given.context), TIMEOUT_S, watch)
        return answers, get_json(port, "/v1/engine", TIMEOUT_S)[1]["facts"]


def row(
    engine: str, kv_bits: int | None, answers: list[Spoken], own: list[Spoken], plain: list[Spoken], facts: dict[str, Any]
) -> dict[str, Any]:
    """One line of the table; figures against itself are left out."""
    against_own = None if answers is own else compare(own, answers)
    against_plain = None if answers is plain else compare(plain, answers)
    return {
        "engine": engine,
        "dtype": facts["dtype"],
        "cache": "unquantised" if kv_bits is None else f"{kv_bits} bits",
        "bytes_per_token": facts["kv_bytes_per_token"],
        "agreement": None if against_own is None else round(against_own.agreement, 3),
        "kept": None if against_own is None else round(against_own.kept, 3),
        "kl": None if against_own is None or against_own.kl is None else round(against_own.kl, 5),
        "agreement_16": None if against_plain is None else round(against_plain.agreement, 3),
        "kept_16": None if against_plain is None else round(against_plain.kept, 3),
    }


if __name__ == "__main__":
    sys.exit(main())
