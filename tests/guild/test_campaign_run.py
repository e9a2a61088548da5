"""`guild campaign-run`: a real context stretch by the wizard's own command, and the words for runs under way. (issue "Build" 8)"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from guild.campaign_run import main
from guild.campaigns.effective_config import build_effective
from guild.campaigns.store import find_campaign
from guild.places import Places
from guild.records import jobs
from guild.records.checkpoint_marks import usable_checkpoint
from guild.records.database import open_guild
from guild.retention.references import references
from guild.side_jobs.job_folder import folder_of
from guild.side_jobs.stretched import open_stretched_child
from helpers.guild_house import command, make_house, until
from helpers.guild_records import write_checkpoint
from helpers.guild_side_jobs import ask_for_toy, job_now
from helpers.medic_run import write_config
from helpers.small_job import small_job
from modelwright.clock import SYSTEM_CLOCK
from modelwright.control import Control
from modelwright.lock import read_holder
from modelwright.record import read_record
from modelwright.tiny import tiny_model_path

RUN = "guild.campaign_run"


@pytest.fixture
def house(tmp_path: Path) -> Places:
    return make_house(tmp_path / "a house")


def queued(places: Places, *words: str) -> jobs.Job:
    done = command(places, RUN, "--json", *words)
    assert done.returncode == 0, done.stderr
    return job_now(places, json.loads(done.stdout)["job"]["id"])


@pytest.mark.slow
def test_a_real_stretch_opens_a_child_campaign(house: Places, tmp_path: Path) -> None:
    """The wizard's own command, three short rungs on the tiny hero's model, exported, joined, and a child that starts from it."""
    document = small_job(tmp_path, training={"steps_per_rung": 1, "save_every": 1}, evaluation={"eval_tokens": 1024, "eval_every": 1})
    document.pop("output_dir")
    config = tmp_path / "stretch.json"
    config.write_text(json.dumps(document))
    asked = queued(house, "stretch", "--config", str(config), "--child-name", "Longer")
    assert asked.payload["model"] == str(tiny_model_path("modelwright/tiny-0.4m")) or asked.payload["model"].startswith("modelwright/")
    argv = [sys.executable, "-m", "guild.side_jobs.runner", "--base-dir", str(house.base), "--kind", "scale", "--poll", "0.1"]
    first = subprocess.Popen(argv, start_new_session=True)
    folder = folder_of(house, asked)
    run = until(lambda: folder.run, "the wizard's run")
    first.kill()  # parts.md, fault 5: the run goes on, and the next runner finds it by identity
    first.wait()
    writer = read_holder(run)
    runner = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    done = job_now(house, asked.id)
    assert (runner.returncode, done.state) == (0, "completed"), f"{runner.stderr} {done.error} {folder.log.read_text()[-2000:]}"
    assert (read_record(run).attempt, done.crashes, read_holder(run)["pid"]) == (1, 0, writer["pid"])
    assert done.result is not None and done.result["summary"]["achieved_context"] == 2048, done.result

    parent = find_campaign(house, "tiny", "campaign-001")
    assert [milestone.metrics.get("job") for milestone in parent.campaign.milestones] == [done.id, None]
    assert done.result["child_campaign"] == "tiny/campaign-002", done.result
    child = find_campaign(house, "tiny", "campaign-002")
    assert child.campaign.name == "Longer" and child.campaign.parent_campaign is not None
    assert child.campaign.parent_campaign.campaign_id == "campaign-001"
    effective = build_effective(house, child).value
    assert effective.context_length == 2048
    start = Path(str(effective.starting_checkpoint))
    assert json.loads((start / "config.json").read_text())["max_position_embeddings"] == 2048
    assert (start / "model.safetensors").is_file() and (start / "tokenizer_config.json").is_file()
    with open_guild(house) as db:
        assert start.resolve() in references(db, house, [])
    again = open_stretched_child(house, parent, done, folder, done.result, clock=SYSTEM_CLOCK)
    assert again.key == child.key


def test_the_newest_whole_checkpoint_is_the_model_and_the_last_words_win(house: Places) -> None:
    inside = house.campaigns / "tiny" / "campaign-001" / "checkpoints"
    write_checkpoint(inside, "checkpoint-5")
    newest = write_checkpoint(inside, "checkpoint-10")
    (write_checkpoint(inside, "checkpoint-20") / "model.safetensors").write_bytes(b"cut")
    assert usable_checkpoint(inside / "checkpoint-20")
    job = queued(house, "autotune", "--priority", "high", "--", "--target-context", "256")
    assert job.payload["arguments"] == ["--candidate-models", str(newest), "--target-context", "256"]
    assert (job.kind, job.campaign, job.level) == ("autotune", "tiny/campaign-001", "high")
    stretch = queued(house, "stretch", "--target-context", "4096", "--no-child")
    assert stretch.payload["arguments"] == ["--base-model", str(newest), "--target-context", "4096"]
    assert stretch.payload["opens_child"] is False


def test_a_medic_configuration_gets_the_campaigns_model(house: Places, tmp_path: Path) -> None:
    newest = write_checkpoint(house.campaigns / "tiny" / "campaign-001" / "checkpoints", "checkpoint-10")
    config = write_config(tmp_path / "medic.yaml", "some/model")
    job = queued(house, "medic", "--config", str(config))
    written = yaml.safe_load(Path(job.payload["arguments"][1]).read_text())
    assert written["model"]["name"] == str(newest)
    assert {**written, "model": None} == {**yaml.safe_load(config.read_text()), "model": None}
    refused = command(house, RUN, "medic-eval", "--train", str(job.id))
    assert refused.returncode == 1 and "was started" in refused.stderr


def test_files_that_are_not_there_and_flags_that_are_wrong_are_named_at_once(house: Places, tmp_path: Path) -> None:
    done = command(house, RUN, "stretch", "--config", str(tmp_path / "none.yaml"), "--contract", str(tmp_path / "no.yaml"))
    assert done.returncode == 2 and "--config" in done.stderr and "--contract" in done.stderr
    assert command(house, RUN, "medic-eval").returncode == 2
    assert command(house, RUN, "pause", "99").returncode == 1


def test_words_to_a_run(house: Places, capsys: pytest.CaptureFixture[str]) -> None:
    job = ask_for_toy(house, "--steps", "2", campaign="tiny/campaign-001")
    base = ["--base-dir", str(house.base)]
    assert main([*base, "pause", str(job.id)]) == 1 and "queued" in capsys.readouterr().err
    with open_guild(house) as db:
        from modelwright.identity import current_identity

        jobs.claim(db, current_identity(), kinds=("medic_train",))
    folder_of(house, job).path.mkdir(parents=True)
    assert main([*base, "pause", str(job.id)]) == 0
    assert [request.kind for request in Control(folder_of(house, job).path).poll()] == ["pause"]
    assert main([*base, "cancel", str(job.id)]) == 0 and job_now(house, job.id).cancel_asked
    assert main([*base, "list"]) == 0 and "medic_train" in capsys.readouterr().out


def test_a_new_base_opens_a_child_campaign(house: Places, tmp_path: Path) -> None:
    start = write_checkpoint(tmp_path, "checkpoint-0")
    (start / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "vocab_size": 1024}))
    done = command(house, RUN, "rebase", "--base-model", "modelwright/tiny-1.5m", "--checkpoint", str(start), "--name", "Bigger")
    assert done.returncode == 0, done.stderr
    child = find_campaign(house, "tiny", "campaign-002")
    assert build_effective(house, child).value.base_model == "modelwright/tiny-1.5m"
