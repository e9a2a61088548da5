"""What analytics cost beside training: layer drift and parameter stability of one checkpoint, and the bookkeeping of a training file.

python -m benchmarks.guild_analytics.run [--size-mb 1200] [--dtype BF16] [--rounds 5] [--records 20000] [--output FILE]

Writes two checkpoints of random weights named as in Llama, two shards each, then measures every way in each round, in turns, each in a
process of its own and twice there: the second call is the figure, the first, with cold buffers, stands beside it. Processor seconds and
page faults are what to compare on a machine that others use; seconds are wall clock. The peak of resident memory is over both.
The floor is reading the same bytes and nothing else. A loop over `safetensors.safe_open` with torch tensors does the same sums for
comparison. Every way reads the files from the page cache. The bookkeeping is one `open_impact` and one `close_impact` (fsyncs included)
in a campaign whose record file has `--records` lines already, and the summary over all of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
from benchmarks.common import table, write_result

from modelwright.files import make_folder, write_json
from modelwright.hardware import peak_rss_bytes

TARGETS = {"stability_share_of_600_s": 0.01, "peak_rss_growth_mb": 64.0, "impact_ms_per_file": 250.0}
"""Stability every 600 s takes less than 1 % of one processor, cold as a job of its own; memory does not grow with the model; the record of
a file costs next to nothing."""
WIDTHS = {"F32": 4, "BF16": 2, "F16": 2}
BLOCK = 1 << 20
HERO, CAMPAIGN = "tiny", "campaign-001"


# --- the checkpoints


def write_checkpoint(folder: Path, size: int, dtype: str, seed: int) -> int:
    """About `size` bytes of weights in 24 layers and an embedding; how many bytes they are."""
    import numpy as np

    width = WIDTHS[dtype]
    per_tensor = max(1, size // width // (24 * 4 + 16))
    names = {"model.embed_tokens.weight": per_tensor * 16}
    for layer in range(24):
        for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
            names[f"model.layers.{layer}.{part}.weight"] = per_tensor
    make_folder(folder)
    (folder / "config.json").write_text("{}")
    draw, weight_map, total = np.random.default_rng(seed), {}, 0
    listed = list(names)
    for number, part in enumerate((listed[:40], listed[40:]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        header, at = {}, 0
        for name in part:
            header[name] = {"dtype": dtype, "shape": [names[name]], "data_offsets": [at, at + names[name] * width]}
            at += names[name] * width
            weight_map[name] = file
        text = orjson.dumps(header)
        text += b" " * (-len(text) % 8)
        with open(folder / file, "wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for name in part:
                for begin in range(0, names[name], BLOCK):
                    numbers = draw.standard_normal(min(BLOCK, names[name] - begin), dtype=np.float32) * np.float32(0.02)
                    bits = (
                        (numbers.view("<u4") >> 16).astype("<u2") if dtype == "BF16" else numbers.astype("<f2" if dtype == "F16" else "<f4")
                    )
                    stream.write(bits.tobytes())
        total += at
    write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    return total


# --- the ways; each returns what it found, so that a way that looked at nothing shows


def floor(base: Path, now: Path, passes: int) -> Any:
    buffer, read = bytearray(BLOCK), 0
    for folder in (base, now)[-passes:]:
        for path in sorted(folder.glob("*.safetensors")):
            with open(path, "rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    read += count
    return {"bytes": read}


def stability(base: Path, now: Path) -> Any:
    from guild.analytics.stability import measure

    found = measure(now)
    return {"norm": math.sqrt(sum(one.norm**2 for one in found)), "tensors": len(found)}


def drift(base: Path, now: Path) -> Any:
    from guild.analytics.drift import layer_drift

    found = layer_drift(base, now)
    return {"norm": math.sqrt(found.total.reference), "overall": found.total.drift, "tensors": found.total.tensors}


def torch_stability(base: Path, now: Path) -> Any:
    from safetensors import safe_open

    squares, tensors = 0.0, 0
    for path in sorted(now.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                tensor = file.get_tensor(name).float()
                squares += float((tensor * tensor).sum(dtype=tensor.dtype))
                float(tensor.abs().max())
                tensors += 1
    return {"norm": math.sqrt(squares), "tensors": tensors}


def torch_drift(base: Path, now: Path) -> Any:
    from safetensors import safe_open

    delta, reference, tensors = 0.0, 0.0, 0
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="pt") as old, safe_open(now / path.name, framework="pt") as new:
            for name in old.keys():  # noqa: SIM118
                before, after = old.get_tensor(name).float(), new.get_tensor(name).float()
                delta += float(((after - before) ** 2).sum())
                reference += float((before**2).sum())
                tensors += 1
    return {"norm": math.sqrt(reference), "overall": math.sqrt(delta / reference), "tensors": tensors}


WAYS: dict[str, tuple[Callable[[Path, Path], Any], tuple[str, ...]]] = {
    "read one checkpoint": (lambda base, now: floor(base, now, 1), ()),
    "read both checkpoints": (lambda base, now: floor(base, now, 2), ()),
    "parameter stability": (stability, ("numpy", "guild.analytics.stability")),
    "layer drift": (drift, ("numpy", "guild.analytics.drift")),
    "torch loop, stability": (torch_stability, ("torch", "safetensors.torch")),
    "torch loop, drift": (torch_drift, ("torch", "safetensors.torch")),
}


def child(request: dict[str, Any]) -> None:
    """One way, measured in this process; prints what it found."""
    import importlib

    call, needs = WAYS[request["way"]]
    for package in needs:
        importlib.import_module(package)
    before = peak_rss_bytes() or 0
    calls = [timed(lambda: call(Path(request["base"]), Path(request["now"]))) for _ in range(2)]
    peak = peak_rss_bytes() or 0
    told = {"first": calls[0]["seconds"], "first_cpu": calls[0]["cpu"], "growth": peak - before, "peak": peak}
    print(json.dumps({**calls[1], **told}))


def timed(call: Callable[[], Any]) -> dict[str, Any]:
    """Wall clock and processor seconds, page faults, and what the call found."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    begin, processor = time.perf_counter(), time.process_time()
    found = call()
    seconds, cpu = time.perf_counter() - begin, time.process_time() - processor
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - usage.ru_minflt
    return {"seconds": seconds, "cpu": cpu, "faults": faults, "found": found}


def measure_weights(base: Path, now: Path, size: int, rounds: int) -> list[dict[str, Any]]:
    """One row for each way: the median over the rounds."""
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    for number in range(rounds):
        for name in WAYS if number % 2 == 0 else reversed(WAYS):
            request = json.dumps({"way": name, "base": str(base), "now": str(now)})
            command = [sys.executable, "-m", "benchmarks.guild_analytics.run", "--child", request]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
            told[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {number + 1}/{rounds}: {name}: {told[name][-1]['seconds']:.3f} s", file=sys.stderr)
    for ours, theirs in (("parameter stability", "torch loop, stability"), ("layer drift", "torch loop, drift")):
        one, other = told[ours][0]["found"], told[theirs][0]["found"]
        assert one["tensors"] == other["tensors"] and math.isclose(one["norm"], other["norm"], rel_tol=1e-3), (one, other)
    rows = []
    for name, measured in told.items():
        files = 1 if name in ("read one checkpoint", "parameter stability", "torch loop, stability") else 2
        seconds = statistics.median(one["seconds"] for one in measured)
        rows.append({
            "way": name, "seconds": round(seconds, 4), "mb_per_s": round(files * size / 1e6 / seconds, 1),
            "cpu_seconds": round(statistics.median(one["cpu"] for one in measured), 4),
            "first_cpu_seconds": round(statistics.median(one["first_cpu"] for one in measured), 4),
            "page_faults": round(statistics.median(one["faults"] for one in measured)),
            "peak_rss_mb": round(max(one["peak"] for one in measured) / 1e6),
            "peak_rss_growth_mb": round(max(one["growth"] for one in measured) / 1e6, 1), "found": measured[0]["found"],
        })  # fmt: skip
    return rows


# --- the bookkeeping


def measure_impact(base: Path, records: int, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds for each file, and seconds for the summary over all records."""
    from guild.analytics.impact import RECORDS, close_impact, open_impact
    from guild.analytics.reports import run_report
    from guild.campaigns.campaign import read_campaign
    from guild.places import Places
    from guild.records.database import open_guild
    from modelwright.identity import current_identity

    path = make_folder(base / "campaigns" / HERO / CAMPAIGN)
    make_folder(path / "status")
    write_json(path / "campaign.json", {"id": CAMPAIGN, "hero_id": HERO, "name": "Benchmark"})
    folder, places, me = read_campaign(path), Places(base), current_identity()
    taken: list[float] = []
    with open_guild(places) as db:
        for job in range(1, 10 * rounds + 2):
            begin = time.perf_counter()
            open_impact(
                db, folder, job=job, file=f"{job}.jsonl", owner=me, attempt=1, start_step=10 * job, steps_left=10, total_steps=10, rows=100,
                val_loss=2.0, skill="bin", level=1,
            )  # fmt: skip
            made = close_impact(db, folder, job=job, attempt=1, outcome="completed", end_step=10 * job + 10, val_loss=1.5)
            if job > 1:
                taken.append(1000 * (time.perf_counter() - begin))
            elif made is not None:  # the others, as earlier files left them
                lines = [orjson.dumps({**made, "job": -number, "impact_id": f"old:{number}"}) + b"\n" for number in range(1, records)]
                with open(folder.status / RECORDS, "ab") as file:
                    file.write(b"".join(lines))
        summaries = []
        for _ in range(rounds):
            begin = time.perf_counter()
            summary = run_report(places, "data_file_impact", campaign=f"{HERO}/{CAMPAIGN}", db=db)
            summaries.append(time.perf_counter() - begin)
    taken.sort()
    return [
        {
            "way": "open and close one file's record", "ms": round(statistics.median(taken), 2),
            "ms_p90": round(taken[int(0.9 * len(taken))], 2),
            "records": records,
        },
        {"way": "summary of all records", "ms": round(1000 * statistics.median(summaries), 1), "records": summary["files"]},
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size-mb", type=float, default=1200, help="millions of bytes of one checkpoint (1200 in BF16: 0.6 B weights)")
    parser.add_argument("--dtype", choices=list(WIDTHS), default="BF16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--records", type=int, default=20_000, help="lines of data_file_impact.jsonl")
    parser.add_argument("--output", default=str(Path(__file__).with_name("result.json")))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.child:
        child(json.loads(given.child))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        base, now = Path(folder) / "base", Path(folder) / "checkpoint-100"
        size = write_checkpoint(base, int(given.size_mb * 1e6), given.dtype, 1)
        write_checkpoint(now, int(given.size_mb * 1e6), given.dtype, 2)
        os.sync()  # nothing is written to disk any more while others are measured
        weights = measure_weights(base, now, size, given.rounds)
        impacts = measure_impact(Path(folder) / "house", given.records, given.rounds)
    by_way = {row["way"]: row for row in weights}
    ours = by_way["parameter stability"], by_way["layer drift"]
    figures = {
        "stability_share_of_600_s": round(ours[0]["first_cpu_seconds"] / 600, 6),
        "peak_rss_growth_mb": max(row["peak_rss_growth_mb"] for row in ours),
        "impact_ms_per_file": impacts[0]["ms"],
    }
    met = {name: figures[name] <= limit for name, limit in TARGETS.items()}
    settings = {"bytes": size, "dtype": given.dtype, "rounds": given.rounds, "records": given.records}
    write_result(
        given.output, benchmark="guild_analytics", settings=settings, results=weights + impacts, figures=figures, targets=TARGETS,
        targets_met=met,
    )  # fmt: skip
    print(
        table(
            weights, ["way", "seconds", "mb_per_s", "cpu_seconds", "first_cpu_seconds", "page_faults", "peak_rss_mb", "peak_rss_growth_mb"]
        )
    )
    print(table(impacts, ["way", "ms", "ms_p90", "records"]))
    for name, limit in TARGETS.items():
        print(f"{name}: {figures[name]:g}, at most {limit:g}: {'met' if met[name] else 'NOT met'}")
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
