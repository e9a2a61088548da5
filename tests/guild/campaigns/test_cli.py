"""`guild campaign` and `guild config` as a person types them: outputs and exit codes of 3.4."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guild import config
from guild.campaigns import cli
from guild.campaigns.store import add_milestone, find_campaign, record_progress
from guild.places import Places
from helpers.guild_campaigns import model_checkpoint, new_house

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return new_house(tmp_path)


@pytest.fixture
def campaign(places: Places, capsys: pytest.CaptureFixture[str]) -> Call:
    return _caller(cli.main, places, capsys)


@pytest.fixture
def settings(places: Places, capsys: pytest.CaptureFixture[str]) -> Call:
    return _caller(config.main, places, capsys)


def _caller(main: Callable[[list[str]], int], places: Places, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--base-dir", str(places.base)])
        return (code, *capsys.readouterr())

    return call


def test_item_23_the_whole_story(places: Places, campaign: Call) -> None:
    code, _, error = campaign("active")
    assert code == 1 and "No campaign is active" in error
    code, out, _ = campaign("new", "--hero", "titan-qwen3-4b", "--name", "First 4B run")
    assert code == 0 and "Made and activated titan-qwen3-4b/campaign-001: First 4B run (step 0)" in out
    code, out, _ = campaign("new", "--hero", "tiny", "--name", "Aside", "--skills", "binary", "--no-activate")
    assert code == 0 and "activated" not in out

    record_progress(places, find_campaign(places, "titan-qwen3-4b", "campaign-001"), current_step=184000, total_examples=5)
    code, out, _ = campaign("list")
    lines = out.splitlines()
    assert 'TITAN, "FLO, The Compassionate" (titan-qwen3-4b)' in lines
    assert "  * campaign-001  First 4B run  step 184,000" in lines and "    campaign-001  Aside         step 0" in lines
    assert lines[-1] == "Total: 2 campaigns" and "    no campaigns" in lines
    assert campaign("list", "tiny")[1].splitlines()[-1] == "Total: 1 campaign"

    code, out, _ = campaign("active")
    assert code == 0
    shown = {line.partition(":")[0]: line.partition(":")[2].strip() for line in out.splitlines()}
    assert (shown["Model"], shown["Campaign"], shown["ID"]) == ("Qwen/Qwen3-4B (4B)", "First 4B run", "campaign-001")
    assert (shown["Status"], shown["Step"], shown["Skills"], shown["Overrides"]) == ("active", "184,000", "-", "-") and "Created" in shown

    code, out, _ = campaign("switch", "tiny", "campaign-001")
    assert code == 0 and out.splitlines() == ["Active campaign: Aside (campaign-001)", "Hero: tiny", "Step: 0"]
    code, _, error = campaign("archive", "tiny", "campaign-001")
    assert code == 1 and "is active and cannot be archived" in error
    code, out, _ = campaign("archive", "titan-qwen3-4b", "campaign-001")
    assert code == 0 and out.strip().endswith("campaigns/archive/titan-qwen3-4b/campaign-001-archived")
    assert "campaign-002" in campaign("new", "--hero", "titan-qwen3-4b", "--name", "Second", "--no-activate")[1]


def test_item_23_info_shows_the_last_five_milestones_and_the_checkpoints(places: Places, campaign: Call) -> None:
    campaign("new", "--hero", "tiny", "--name", "One")
    folder = find_campaign(places, "tiny", "campaign-001")
    for step in range(1, 8):
        add_milestone(places, folder, step * 1000, f"note {step}")
    for step in (900, 1000):
        model_checkpoint(folder.checkpoints, step)
    code, _, error = campaign("new", "--hero", "tiny", "--name", "Two", "--checkpoint", str(folder.checkpoints / "checkpoint-1000"))
    assert code == 0, error
    _, out, _ = campaign("info", "tiny", "campaign-001")
    assert "Milestones (last 5 of 7):" in out and "note 3" in out and "note 2" not in out and "step 7,000" in out
    assert "2, latest" in out and out.count("checkpoint-1000") == 1 and "Optimizer:    adamw" in out
    _, out, _ = campaign("info", "tiny", "campaign-002")
    assert "tiny/campaign-001 at step 1,000" in out and "checkpoints/checkpoint-1000 (step 1,000)" in out
    _, out, _ = campaign("lineage", "tiny", "campaign-002")
    assert out.splitlines() == ["tiny/campaign-001: One, left at step 1,000", "  tiny/campaign-002: Two"]


def test_heroes_are_listed_with_their_figures(campaign: Call) -> None:
    code, out, _ = campaign("heroes")
    assert code == 0 and 'DIO, "The Skeptic" (dio-qwen3-0.6b)' in out
    assert "paged_adamw_8bit, learning rate 2e-05, batch 1 x 32, 512 tokens, about 18.6 GB" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("new", "--hero", "nobody", "--name", "x"), ": dio-qwen3-0.6b, tiny, titan-qwen3-4b"),
        (("new", "--hero", "tiny", "--name", "x", "--skills", "chess"), "skill: found 'chess'"),
        (("switch", "tiny", "campaign-009"), "campaign: found 'campaign-009'"),
        (("info", "nobody", "campaign-001"), "hero: found 'nobody'"),
        (("list", "nobody"), "hero: found 'nobody'"),
        (("archive", "tiny", "campaign-009"), "campaign: found"),
        (("lineage", "tiny", "campaign-009"), "campaign: found"),
    ],
)
def test_item_23_what_is_unknown_ends_with_1_and_the_known_names(campaign: Call, arguments: tuple[str, ...], says: str) -> None:
    code, out, error = campaign(*arguments)
    assert (code, out) == (1, "") and says in error


def test_every_verb_answers_in_json(places: Places, campaign: Call) -> None:
    def answer(*arguments: str) -> Any:
        code, out, _ = campaign(*arguments, "--json")
        assert code == 0
        return json.loads(out)

    made = answer("new", "--hero", "tiny", "--name", "One")
    assert made["id"] == "campaign-001" and made["activated"] and made["status"] == "active"
    assert answer("list")["heroes"][1]["campaigns"][0]["active"] is True
    assert answer("active")["hero"]["model"] == "modelwright/tiny-0.4m"
    assert answer("info", "tiny", "campaign-001")["checkpoints"] == {"count": 0, "latest": None}
    assert answer("lineage", "tiny", "campaign-001")["ancestors"][0]["left_at_step"] is None
    assert answer("switch", "tiny", "campaign-001")["changed"] is False
    assert {hero["id"] for hero in answer("heroes")["heroes"]} == {"dio-qwen3-0.6b", "tiny", "titan-qwen3-4b"}
    answer("new", "--hero", "tiny", "--name", "Two")
    assert answer("archive", "tiny", "campaign-001")["status"] == "archived"


def test_broken_files_are_named_after_the_healthy_rest(places: Places, campaign: Call) -> None:
    campaign("new", "--hero", "tiny", "--name", "One")
    (places.heroes / "broken.yaml").write_text("id: [")
    code, out, error = campaign("list")
    assert code == 1 and "Total: 1 campaign" in out and "broken.yaml" in error
    assert campaign("heroes")[0] == 1


def test_the_module_is_a_command_and_wrong_arguments_end_with_2(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "guild.campaigns.cli", *arguments]
        environment = {**os.environ, "TRAINING_BASE_DIR": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    assert run("new", "--hero", "tiny").returncode == 2
    done = run("active")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())  # asking writes nothing


# --- guild config


def test_config_shows_values_and_where_they_come_from(campaign: Call, settings: Call) -> None:
    assert settings("show")[0] == 1
    campaign("new", "--hero", "titan-qwen3-4b", "--name", "x")
    code, out, _ = settings("show", "--set", "seed=7")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert code == 0 and rows["seed"] == ["7", "command", "line"] and rows["optimizer"] == ['"paged_adamw_8bit"', "hero"]
    assert rows["liger_kernel.fused_rope"] == ["true", "hero"]
    data = json.loads(settings("show", "--json")[1])
    assert data["config"]["optimizer"] == "paged_adamw_8bit" and data["origins"]["seed"] == "default" and len(data["digest"]) == 64
    code, _, error = settings("show", "--set", "seed=-1", "--set", "batchsize=2")
    assert code == 2 and "seed: found -1" in error and "did you mean batch_size?" in error


def test_config_sets_overrides_and_the_installation(places: Places, campaign: Call, settings: Call) -> None:
    code, _, error = settings("set", "--global", "poll_interval=5")
    assert code == 2 and "model_name: found none" in error and "give model_name=ID" in error
    campaign("new", "--hero", "tiny", "--name", "x")
    assert settings("set", "learning_rate=1e-4", "optimizer_settings.muon.hidden_lr=0.01")[0] == 0
    assert find_campaign(places, "tiny", "campaign-001").campaign.config_overrides["optimizer_settings"] == {"muon": {"hidden_lr": 0.01}}
    assert settings("set", "learning_rate=null")[0] == 0
    assert "learning_rate" not in find_campaign(places, "tiny", "campaign-001").campaign.config_overrides
    assert settings("set", "--global", "poll_interval=5")[0] == 0  # the active campaign says which model it is about
    assert "Nothing changed" in settings("set", "--global", "poll_interval=5")[1]


def test_the_lock_tool(places: Places, campaign: Call, settings: Call) -> None:
    campaign("new", "--hero", "tiny", "--name", "x")
    code, _, error = settings("lock", "--validate-only")
    assert code == 1 and "no lock that binds yet" in error
    assert settings("lock", "--create-lock")[0] == 0
    code, out, _ = settings("lock", "--validate-only")
    assert code == 0 and "max_context_length 256" in out
    folder = find_campaign(places, "tiny", "campaign-001")
    content = json.loads(folder.lock_file.read_text())
    content["locked"]["vocab_size"] = 9
    folder.lock_file.write_text(json.dumps(content))
    code, _, error = settings("lock", "--validate-only")
    assert code == 1 and "vocab_size: found 1024; allowed: 9, locked by" in error
    assert settings("lock", "--remove-lock")[0] == 1
    assert settings("lock", "--remove-lock", "--reason", "grown")[0] == 0 and not folder.lock_file.exists()
