"""Whole sessions against a real server that answers what a test wants. (specs/guild.md 6.4, acceptance items 19 and 34)"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from guild.correction import files
from guild.correction.rows import CONFIRM, CORRECT, CORRECT_REPLY, IDENTIFY, INCORRECT_REPLY, SessionMark
from guild.correction.running import Result, derived_seed, run_sparring
from guild.correction.status import HISTORY, read_status, status_path
from guild.correction.validator import check_file
from guild.evaluation.api import ApiError
from guild.evaluation.measuring import NoResultError
from guild.places import Places
from guild.prompts import dated_prompt
from guild.queue.status import list_queue
from guild.records import events, jobs
from guild.records.checkpoint_record import CampaignId
from guild.records.data_sidecars import read_data_sidecar
from guild.records.database import open_guild
from guild.skills.contract import Sample
from guild.skills.registry import load_skill
from guild.training.preparation import DatasetPreparer
from guild.training.profiles import get_profile
from guild.validation.validate import validate_file
from helpers.guild_house import make_house
from helpers.guild_records import killed_at_line
from helpers.guild_sparring import WRONG, chat_server, golden, trained_to
from modelwright.clock import ManualClock
from modelwright.errors import ConfigError, UsageError
from modelwright.files import read_json, read_jsonl, write_json

NOON = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)
TINY = CampaignId("tiny", "campaign-001")
ASK = {"skill": "binary", "level": 3, "count": 10, "seed": 7}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return make_house(tmp_path / "guild", overrides={"profile": "none"})


def problems(count: int = 10, level: int = 3, seed: int = 7) -> list[Sample]:
    return load_skill("bin").generate(level, count, seed)


def test_item_34_four_wrong_of_ten_give_twelve_rows_that_wait_in_high(places: Places) -> None:
    with chat_server(golden(problems(), wrong=4)) as server:
        result = run_sparring(places, ASK, url=server.url, clock=ManualClock(NOON))
    assert (result.rounds, result.correct, result.incorrect, result.unanswered, result.rows) == (10, 6, 4, 0, 12)
    assert result.accuracy == 0.6 and result.checkpoint == "checkpoint-100" and result.skill == "bin"
    saved = places.sparring_data / "sparring_bin_L3_12_20260304_120000.jsonl"
    assert result.file == str(saved) and result.queued == "high"
    rows = list(read_jsonl(saved).records)
    assert Counter(row["type"] for row in rows) == {IDENTIFY: 4, CORRECT: 4, CONFIRM: 4}
    assert [row.name for row in list_queue(places, "high")] == [saved.name]
    assert (places.level("high") / saved.name).read_bytes() == saved.read_bytes()
    assert check_file(saved, strict=True).passed and validate_file(saved, "deep").valid
    with open_guild(places) as db:
        job = jobs.find_file(db, saved.name)
    assert (job.payload["generator"], job.payload["skill"], job.payload["level"], job.payload["rows"]) == ("sparring@1.0.0", "bin", 3, 12)


def test_rows_show_the_attempt_the_golden_answer_and_another_problem(places: Places) -> None:
    asked = problems()
    with chat_server(golden(asked, wrong=2)) as server:
        result = run_sparring(places, ASK, url=server.url, clock=ManualClock(NOON))
    identify, correct, confirm = list(read_jsonl(Path(result.file or "")).records)[:3]
    question, answer = [message["content"] for message in identify["messages"]]
    assert question.startswith(asked[0].user_prompt) and WRONG in question and asked[0].assistant_response not in question
    assert answer == INCORRECT_REPLY
    assert [message["content"] for message in correct["messages"]] == [asked[0].user_prompt, asked[0].assistant_response]
    assert confirm["messages"][1]["content"] == CORRECT_REPLY
    skill = load_skill("bin")
    fresh = skill.generate(3, 2 + 10, derived_seed("fresh", 7))
    assert any(
        confirm["messages"][0]["content"].startswith(one.user_prompt) and one.assistant_response in confirm["messages"][0]["content"]
        for one in fresh
    )
    assert not any(confirm["messages"][0]["content"].startswith(one.user_prompt + "\n") for one in asked)
    for row in (identify, correct, confirm):
        assert row["generator_id"] == "sparring" and row["generator_version"] == "1.0.0" and row["skill"] == "bin" and row["level"] == 3
        assert row["session_checkpoint"] == "checkpoint-100" and row["session_timestamp"] == "2026-03-04T12:00:00Z"
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"], "the preparation adds the base prompt"


def test_item_19_every_request_carries_the_dated_base_prompt_once_and_names_the_model(places: Places) -> None:
    with chat_server(golden(problems())) as server:
        run_sparring(places, ASK, url=server.url, clock=ManualClock(NOON))
    assert sorted(server.prompts) == sorted(one.user_prompt for one in problems())
    for body in server.requests:
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        assert body["messages"][0]["content"] == dated_prompt(date(2026, 3, 4))
        assert body["temperature"] == 0 and body["max_tokens"] == 512 and body["model"] == "checkpoint-100"


def test_item_19_every_row_is_trained_under_the_dated_base_prompt_once(places: Places) -> None:
    with chat_server(golden(problems(), wrong=4)) as server:
        result = run_sparring(places, ASK, url=server.url, clock=ManualClock(NOON))
    prepared = DatasetPreparer(get_profile("none"), date(2026, 3, 4)).prepare(Path(result.file or ""))
    rows = [*prepared.training, *prepared.validation]
    assert len(rows) == 12
    for row in rows:
        systems = [message["content"] for message in row["messages"] if message["role"] == "system"]
        assert systems == [dated_prompt(date(2026, 3, 4))]


def test_the_campaigns_profile_decides_prompt_and_marks(tmp_path: Path) -> None:
    places = make_house(tmp_path / "guild", overrides={"profile": "regime3"})
    asked = problems()
    replies = {one.user_prompt: f"<<ANS_START>> {one.assistant_response} <<ANS_END>>" for one in asked}
    replies[asked[0].user_prompt] = f"<<ANS_START>> {WRONG} <<ANS_END>>"
    with chat_server(replies.__getitem__) as server:
        result = run_sparring(places, ASK, url=server.url, clock=ManualClock(NOON))
    assert (result.correct, result.rows) == (9, 3), "marks of the profile are no part of the answer"
    system = server.requests[0]["messages"][0]["content"]
    assert system.startswith(dated_prompt(date(2026, 3, 4))) and "answer marks" in system
    shown = next(iter(read_jsonl(Path(result.file or "")).records))["messages"][0]["content"]
    assert "<<ANS" not in shown and WRONG in shown


def test_all_right_gives_no_rows_and_is_a_session(places: Places) -> None:
    with chat_server(golden(problems())) as server:
        result = run_sparring(places, ASK, url=server.url)
    assert (result.rows, result.file, result.queued) == (0, None, None) and result.accuracy == 1.0
    assert list_queue(places) == [] and not list(places.sparring_data.iterdir())
    assert read_status(places)["last_session"]["training_examples"] == 0


def test_item_34_a_dead_endpoint_gives_nothing(places: Places) -> None:
    with chat_server(golden(problems())) as server:
        url = server.url
    with pytest.raises(ApiError):
        run_sparring(places, ASK, url=url)
    assert list_queue(places) == [] and not list(places.sparring_data.iterdir()) and not status_path(places).exists()
    with open_guild(places) as db:
        told = [event for event in events.read_after(db, families=("data",)).events if event.type == "data.sparring_failed"]
    assert len(told) == 1 and told[0].severity == "error"


@pytest.mark.parametrize(("failing", "rows"), [(2, 0), (3, None)])
def test_a_request_that_fails_is_no_wrong_answer_and_more_than_a_fifth_end_the_session(
    places: Places, failing: int, rows: int | None
) -> None:
    with chat_server(golden(problems(), wrong=failing, reply=503)) as server:
        if rows is None:
            with pytest.raises(NoResultError, match="3 of 10 questions had no result"):
                run_sparring(places, ASK, url=server.url, clock=ManualClock(NOON))
            assert not list(places.sparring_data.iterdir())
        else:
            result = run_sparring(places, ASK, url=server.url, clock=ManualClock(NOON))
            assert (result.rounds, result.unanswered, result.incorrect, result.rows) == (8, failing, 0, rows)
    assert list_queue(places) == []


def test_an_empty_answer_is_no_result(places: Places) -> None:
    with chat_server(golden(problems(), wrong=2, reply="  \n")) as server:
        result = run_sparring(places, ASK, url=server.url)
    assert (result.rounds, result.unanswered, result.rows) == (8, 2, 0)


def test_a_hopeless_session_ends_after_the_round_that_shows_it(places: Places) -> None:
    asked = problems(100)
    with chat_server(golden(asked, wrong=100, reply=400)) as server, pytest.raises(NoResultError):
        run_sparring(places, {**ASK, "count": 100}, url=server.url)
    assert len(server.requests) == 40, "21 of 100 are more than a fifth, and 20 are asked at a time"


def test_the_checkpoint_is_named_or_is_the_only_one(places: Places) -> None:
    folder = "/far/checkpoint-500-20260101-0000"
    with chat_server(golden(problems(), wrong=1), model="hero", path=folder) as server:
        server.models.append({"id": "other", "path": "/far/checkpoint-700"})
        with pytest.raises(UsageError, match="hero, other"):
            run_sparring(places, ASK, url=server.url)
        with pytest.raises(UsageError, match="checkpoint-500-20260101-0000, checkpoint-700"):
            run_sparring(places, {**ASK, "checkpoint": "600"}, url=server.url)
        with pytest.raises(UsageError, match="checkpoint-700, which the model other is"):
            run_sparring(places, {**ASK, "checkpoint": "500", "model": "other"}, url=server.url)
        for named in ({"checkpoint": "500"}, {"checkpoint": "checkpoint-500-20260101-0000"}, {"checkpoint": folder}, {"model": "hero"}):
            result = run_sparring(places, {**ASK, **named}, url=server.url, enqueue=False)
            assert (result.model, result.checkpoint) == ("hero", "checkpoint-500-20260101-0000")
    assert len(list(places.sparring_data.glob(files.PATTERN))) == 4, "every session has a file of its own"


def test_the_address_comes_from_the_registry(places: Places) -> None:
    with chat_server(golden(problems(), wrong=1)) as server:
        registry = read_json(places.hosts)
        host = registry["hosts"][registry["default_inference"]]
        host["host"] = "127.0.0.1"
        host["services"]["inference"]["port"] = server.port
        write_json(places.hosts, registry)
        assert run_sparring(places, ASK).rows == 3


def test_without_level_the_training_level_is_asked_and_sessions_differ(places: Places) -> None:
    with chat_server(lambda prompt: WRONG) as server:
        first = run_sparring(places, {"skill": "bin", "count": 5}, url=server.url)
        second = run_sparring(places, {"skill": "bin", "count": 5}, url=server.url)
    assert first.level == second.level == 1
    assert sorted(server.prompts[:5]) != sorted(server.prompts[5:])


def test_without_a_campaign_the_plain_prompt_is_used(tmp_path: Path) -> None:
    places = Places(tmp_path)
    with chat_server(golden(problems(), wrong=1), model="some-model") as server:
        result = run_sparring(places, ASK, url=server.url, clock=ManualClock(NOON))
    assert (result.rows, result.checkpoint, result.queued) == (3, "some-model", "high")
    assert server.requests[0]["messages"][0]["content"] == dated_prompt(date(2026, 3, 4))


def test_rows_that_are_stale_at_once_wait_in_low(places: Places) -> None:
    with open_guild(places) as db:
        trained_to(db, places, 200, TINY)
    with chat_server(golden(problems(), wrong=1)) as server:
        result = run_sparring(places, ASK, url=server.url)
    assert (result.queued, result.stale) == ("low", True)


def test_rows_that_fail_two_quality_checks_are_queued_with_a_warning(places: Places) -> None:
    flood = "\ufffd\x00 " * 4000
    with chat_server(golden(problems(), wrong=10, reply=flood)) as server:
        result = run_sparring(places, ASK, url=server.url)
    assert (result.outcome, result.queued) == ("CONDITIONAL", "high")
    sidecar = read_data_sidecar(Path(result.file or ""))
    assert sidecar is not None
    checks = sidecar.extra["quality"]["checks"]
    assert [name for name, one in checks.items() if not one["passed"]] == ["length", "content"]


def test_item_28_rows_that_the_quality_checks_reject_never_reach_the_queue(places: Places) -> None:
    mark = SessionMark("bin", 3, "checkpoint-100", "2026-03-04T12:00:00Z")
    with pytest.raises(files.RejectedRowsError, match="0 of the first 1 rows are well formed"):
        files.save(places, [{"messages": []}], mark, {}, clock=ManualClock(NOON))
    assert len(list(places.rejected.glob("sparring_bin_L3_1_*.jsonl"))) == 1 and not list(places.sparring_data.iterdir())


def test_faults_of_the_payload_are_named_together(places: Places) -> None:
    with pytest.raises(ConfigError) as caught:
        run_sparring(places, {"skill": "bin", "count": 0, "level": 0})
    assert {fault.path for fault in caught.value.faults} == {"count", "level"}


def test_a_job_whose_worker_is_killed_at_any_line_gives_one_file_that_waits_once(places: Places) -> None:
    modules = ("correction/running.py", "correction/files.py", "correction/status.py")
    with chat_server(golden(problems(), wrong=1)) as server:

        def hold(job: int) -> Result:
            return run_sparring(places, ASK, job=job, url=server.url)

        for job in range(1, 100):
            done = not killed_at_line(31 * job, modules, lambda job=job: hold(job))  # type: ignore[misc]
            result = hold(job)
            assert result.rows == 3 and result.queued == "high"
            if done:
                break
    assert 5 <= job < 99
    waiting = [read_data_sidecar(places.level("high") / row.name) for row in list_queue(places)]
    assert sorted(one.params["job"] for one in waiting if one is not None) == list(range(1, job + 1))
    assert read_status(places)["total_sessions"] == job
    assert len(list(places.sparring_data.glob(files.PATTERN))) == len(list(places.sparring_data.glob("*.meta.json"))) == job


def test_a_worker_killed_between_the_queued_file_and_its_job_doubles_nothing(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with chat_server(golden(problems(), wrong=4)) as server:
        with monkeypatch.context() as patched:
            patched.setattr("guild.queue.add.new_file_job", die)
            with pytest.raises(Killed):
                run_sparring(places, ASK, job=5, url=server.url)
        assert len(list(places.level("high").glob(files.PATTERN))) == 1
        result = run_sparring(places, ASK, job=5, url=server.url)
    assert len(server.requests) == 10 and (result.rows, result.queued) == (12, "high")
    assert [row.job for row in list_queue(places)] == [result.job]


def test_a_job_that_is_done_again_asks_nothing_again(places: Places) -> None:
    with chat_server(golden(problems(), wrong=4)) as server:
        first = run_sparring(places, ASK, job=5, url=server.url)
        other = run_sparring(places, ASK, job=6, url=server.url)
        assert run_sparring(places, ASK, job=5, url=server.url) == first and other.file != first.file
    assert len(server.requests) == 20 and read_status(places)["total_sessions"] == 2
    with open_guild(places) as db:
        told = [event.type for event in events.read_after(db, families=("data",)).events]
    assert told.count("data.sparring") == 2


def test_a_sidecar_whose_rows_were_never_written_is_no_session(places: Places) -> None:
    with chat_server(golden(problems(), wrong=4)) as server:
        first = run_sparring(places, ASK, job=5, url=server.url, enqueue=False)
        Path(first.file or "").unlink()
        second = run_sparring(places, ASK, job=5, url=server.url)
    assert second.rows == 12 and len(server.requests) == 20
    assert len(list(places.sparring_data.glob("*.meta.json"))) == 1


def test_status_keeps_fifty_sessions_and_what_others_wrote(places: Places) -> None:
    original = {"last_session": {}, "history": [{"timestamp": "2025-11-01T00:00:00"}] * 49, "total_sessions": 60, "note": "kept"}
    write_json(status_path(places), original)
    with chat_server(golden(problems(), wrong=1)) as server:
        for _ in range(2):
            run_sparring(places, ASK, url=server.url, enqueue=False, clock=ManualClock(NOON if _ else datetime(2026, 1, 1, tzinfo=UTC)))
    found = read_json(status_path(places))
    assert found["total_sessions"] == 62 and len(found["history"]) == HISTORY and found["note"] == "kept" and found["schema_version"] == 1
    last = found["last_session"]
    assert last == found["history"][-1]
    expected = {
        "checkpoint": "checkpoint-100",
        "skill": "bin",
        "level": 3,
        "total_rounds": 10,
        "correct": 9,
        "incorrect": 1,
        "accuracy": 0.9,
    }
    assert expected.items() <= last.items() and last["training_examples"] == 3 and last["timestamp"] == "2026-03-04T12:00:00Z"


def test_progress_is_told_after_every_round_and_may_end_the_session(places: Places) -> None:
    told: list[tuple[int, int]] = []
    with chat_server(golden(problems(50))) as server:
        run_sparring(places, {**ASK, "count": 50}, url=server.url, progress=lambda done, count: told.append((done, count)))
    assert told == [(20, 50), (40, 50), (50, 50)]
