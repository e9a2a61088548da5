"""The guild's benchmarks at the size of a test: what they count, what they compare, and what stands in their results."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks.guild_analytics.run import main as analytics
from benchmarks.guild_common.houses import model_fields, write_rows
from benchmarks.guild_daemon.run import main as daemon
from benchmarks.guild_daemon.tree import TICKS_PER_S, Process, Tree, label_of, memory_of, read_processes, wakeups_of
from benchmarks.guild_overhead.run import main as overhead
from benchmarks.guild_overhead.steps import Block, compare, durations, kept, look_seconds
from benchmarks.guild_queue.run import main as queue
from benchmarks.guild_queue.run import one_round
from benchmarks.guild_skills.run import main as skills
from benchmarks.guild_validation.run import main as validation

from modelwright.files import read_json

BURN_S = 0.3
BURN = f"import time\nwhile time.process_time() < {BURN_S}: pass"
PARENT = f"""
import subprocess, sys, time
child = [sys.executable, "-c", {BURN!r}]
if sys.argv[1] == "reap":
    subprocess.run(child)
elif sys.argv[1] == "zombie":
    subprocess.Popen(child)
else:  # a child that starts one itself and goes when it is told to: nobody of the tree waits for that one
    middle = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); sys.stdin.readline()"
    subprocess.run([sys.executable, "-c", middle, {BURN!r}])
time.sleep(60)
"""


def result(path: Path) -> dict[str, Any]:
    """What a benchmark wrote."""
    content = read_json(path)
    assert set(content["targets_met"]) and content["machine"]["cpu"]
    return dict(content)


# --- the daemon: processor time of a tree of processes


@pytest.mark.parametrize("way", ["reap", "zombie", "orphan"])
def test_no_processor_time_of_a_child_is_lost_when_it_ends(way: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, way], stdin=subprocess.PIPE)
    assert parent.stdin is not None
    try:
        tree = Tree.of(parent.pid)
        least, deadline = BURN_S - 3 / TICKS_PER_S, time.monotonic() + 60
        while True:
            tree.look(read_processes())
            if way == "orphan" and len(tree.last) == 2 and not parent.stdin.closed:
                parent.stdin.close()
            counted = (tree.ticks() - tree.own_ticks()) / TICKS_PER_S
            if counted >= least and not tree.living():
                break
            assert time.monotonic() < deadline, f"{counted} s counted"
            time.sleep(0.02)
        before = tree.ticks()
        time.sleep(0.1)
        tree.look(read_processes())  # the same time is not counted again elsewhere
        assert tree.ticks() - before <= 2
    finally:
        parent.kill()
        parent.wait()
        parent.stdin.close()


def test_a_number_that_was_used_again_is_another_process() -> None:
    tree = Tree((10, 5), own=Process((10, 5), 1, 7, 0, False))
    child, other = Process((11, 6), 10, 40, 2, False), Process((11, 99), 1, 1000, 0, False)
    root = Process((10, 5), 1, 8, 0, False)
    tree.look({10: root, 11: child})
    waited = Process((10, 5), 1, 9, 42, False)
    tree.look({10: waited, 11: other})
    assert tree.ticks() == 9 + 42 and tree.living() == []
    with pytest.raises(ProcessLookupError):
        tree.look({10: Process((10, 77), 1, 0, 0, False)})


def test_processes_of_the_guild_have_names() -> None:
    assert label_of(["python", "-m", "guild.side_jobs.runner", "--base-dir", "x", "--kind", "report"]) == "report"
    assert label_of(["python", "-m", "guild.eval_runner"]) == "guild.eval_runner"
    assert label_of(["/usr/bin/sleep", "1"]) == "sleep" and label_of([]) == "?"


def test_wakeups_and_memory_of_this_process() -> None:
    before = wakeups_of(os.getpid())
    for _ in range(5):
        time.sleep(0.001)
    after = wakeups_of(os.getpid())
    assert after.wakeups >= before.wakeups + 5 and after.threads >= 1
    memory = memory_of(os.getpid())
    assert memory["rss_mb"] is not None and memory["rss_mb"] > 5


def test_an_idle_daemon_is_watched_with_all_that_it_starts(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    code = daemon(["--minutes", "0.05", "--waiting", "3", "--only", "new", "waiting", "floor", "--output", str(output)])
    content = result(output)
    rows = {row["case"]: row for row in content["results"]}
    assert set(rows) == {"new house", "files wait, paused", "Python that only sleeps, twice a second"}
    for row in rows.values():
        assert row["seconds"] >= 3 and row["percent"] >= row["daemon"] >= 0 and row["rss_mb"] > 1 and row["wakeups_per_s"] > 0
    new = rows["new house"]
    assert {"report", "retention"} <= set(new["children_at_start"]) and new["start_cpu_s"] > new["start_cpu_s_of_daemon"] > 0
    assert new["with_regular"] > new["daemon"] and new["judged"] and not rows["Python that only sleeps, twice a second"]["judged"]
    highest = max(max(row["percent"], row["with_regular"]) for row in rows.values() if row["judged"])
    assert content["figures"]["idle_percent"] == highest and code == (0 if highest <= 1 else 1)


# --- the overhead of a step


def test_steps_of_evaluation_and_the_ones_behind_them_are_left_out_everywhere() -> None:
    assert kept(16, (0, 10), skipped=2) == [3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15]
    assert kept(4, (), skipped=1) == [2, 3]
    moments = [0.0, 1.0, 3.0, 6.0]
    assert durations(moments, [1, 3]) == [1.0, 3.0]


def test_what_a_look_takes_is_told_beyond_a_step() -> None:
    moments = [float(at) for at in range(1, 21)]
    moments[10:] = [at + 5 for at in moments[10:]]  # behind step 10
    block = Block(moments, moments, 30.0, {})
    assert look_seconds(block, kept(20, (10,)), (10, 0)) == pytest.approx(5.0)
    assert look_seconds(block, kept(20, (50,)), (50,)) is None


def test_a_ratio_is_taken_within_its_round() -> None:
    theirs = [1.0, 2.0, 3.0, 4.0, 5.0]
    ratio = compare([1.01 * one for one in theirs], theirs)
    assert ratio.percent == pytest.approx(1.0) and ratio.low == pytest.approx(1.0) and ratio.high == pytest.approx(1.0)
    wide = compare([1.1, 1.8, 3.3, 3.6, 5.0], theirs)
    assert wide.percent == pytest.approx(0.0, abs=1e-9) and wide.low < -5 and wide.high > 5


def test_models_by_name(tmp_path: Path) -> None:
    assert model_fields("tiny-0.4m", tmp_path)["hf_name"] == "modelwright/tiny-0.4m"
    made = model_fields("random-64x1", tmp_path)
    assert made["architecture"] == "LlamaForCausalLM" and (Path(made["hf_name"]) / "model.safetensors").is_file()
    for wrong in ("tiny-9b", "random-100x2", "random-64", "random-64x0"):
        with pytest.raises(ValueError, match=r"allowed: tiny-0\.4m"):
            model_fields(wrong, tmp_path)


def test_all_ways_train_the_same_and_every_step_is_counted(tmp_path: Path) -> None:
    output, model = tmp_path / "result.json", "random-64x1"
    overhead(["--model", model, "--rows", "64", "--batch", "2", "--rounds", "1", "--output", str(output)])
    content = result(output)
    rows = {row["way"]: row for row in content["results"]}
    assert set(rows) == {"guild", "engine", "stock", "stock, every step logged"}
    assert len({(row["steps"], row["steps_compared"]) for row in rows.values()}) == 1 and rows["guild"]["steps_compared"] >= 5
    assert rows["engine"]["apart"] == 0.0 and rows["stock"]["apart"] <= 1e-3
    hooks = content["hooks"]
    assert 0 < hooks["ms_of_a_step_without_writing"] <= hooks["longest_ms"] and 0 < hooks["percent"] < 100
    assert hooks["ms_per_step"] < rows["guild"]["step_ms"] and content["settings"]["model"] == model
    assert set(content["ratios"]["guild against stock"]["wall"]) == {"percent", "low", "high"}


def test_rows_are_all_different(tmp_path: Path) -> None:
    lines = write_rows(tmp_path / "rows.jsonl", 50, first=5).read_text(encoding="utf-8").splitlines()
    assert len(set(lines)) == 50


# --- those written before


def test_validation_beside_its_floor(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    ways = ["orjson alone, 1 process", "orjson alone, 2 processes", "QUICK, 2 processes", "DEEP, 1 process"]
    affinity = os.sched_getaffinity(0)
    try:
        validation(["--size-mb", "0.5", "--rounds", "1", "--only", *ways, "--output", str(output)])
    finally:
        os.sched_setaffinity(0, affinity)
    content = result(output)
    rows = {row["way"]: row for row in content["results"]}
    assert set(rows) == set(ways) and {row["found"]["rows"] for row in rows.values()} == {content["settings"]["rows"]}
    assert rows["QUICK, 2 processes"]["found"]["valid"] and all(row["mb_per_cpu_s"] > 0 for row in rows.values())
    assert set(content["targets_met"]) == {"quick"} and content["settings"]["cores"] <= 2


def test_the_queue_gives_every_job_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = one_round("guild", 60, 4, 2, 20)
    assert figures["take_p99_ms"] >= figures["take_p50_ms"] > 0 and figures["enqueue_per_s"] > 0
    assert queue(["--quick", "--output", str(tmp_path / "result.json")]) in (0, 1)
    said = capsys.readouterr().out
    assert "procrastinate" in said and "huey, no fsync" in said and not (tmp_path / "result.json").exists()


def test_generation_is_judged_by_every_form(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    skills(["--rows", "30", "--rounds", "1", "--output", str(output)])
    forms = {row["form"] for row in result(output)["results"]}
    assert {"mixed", "self-check", "mixed, json"} <= forms


def test_analytics_beside_their_floor(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    analytics(["--size-mb", "3", "--rounds", "1", "--records", "50", "--output", str(output)])
    rows = {row["way"]: row for row in result(output)["results"]}
    assert rows["read both checkpoints"]["found"]["bytes"] > 2 * 2.5e6
    assert rows["parameter stability"]["found"]["tensors"] == rows["torch loop, stability"]["found"]["tensors"]
    assert rows["summary of all records"]["records"] >= 50
