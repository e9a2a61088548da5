"""The rules as a pure function, over random trees. (specs/guild.md 2.8.4, item 43)"""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from guild.retention.rules import GB, HOUR, Item, Limits, decide, stays

items = st.lists(
    st.builds(
        Item,
        path=st.integers(0, 10_000).map(lambda number: f"/base/{number:05d}"),
        sort=st.sampled_from(["checkpoint", "snapshot"]),
        size=st.integers(10, 50),
        age_s=st.floats(0, 100 * HOUR),
        campaign=st.sampled_from(["a/1", "b/1"]),
        step=st.integers(0, 50),
        optimizer=st.integers(0, 10),
        protected=st.sampled_from([(), (), (), ("it is the best",)]),
    ),
    max_size=25,
    unique_by=lambda item: item.path,
)
limits = st.builds(
    Limits,
    cap_bytes=st.integers(0, 600),
    min_age_s=st.just(36 * HOUR),
    keep_optimizer=st.dictionaries(st.sampled_from(["a/1", "b/1"]), st.integers(0, 4)),
)


@settings(max_examples=300, deadline=None)
@given(items, limits)
def test_item_43_what_must_stay_stays_and_the_cap_holds_otherwise(everything: list[Item], limit: Limits) -> None:
    plan = decide(everything, limit)
    by_path = {item.path: item for item in everything}
    whole = [step.path for step in plan.steps if step.what == "whole"]
    light = [step.path for step in plan.steps if step.what == "optimizer"]
    assert len(set(whole + light)) == len(plan.steps)
    for path in whole:
        assert not by_path[path].protected and by_path[path].age_s >= 36 * HOUR
    for path in light:
        item = by_path[path]
        newer = [other for other in everything if other.campaign == item.campaign and other.step >= item.step and other.optimizer]
        assert not item.protected and item.age_s >= HOUR and item.sort == "checkpoint"
        assert len(newer) > limit.keep_optimizer[item.campaign]
    gone = sum(by_path[path].size for path in whole) + sum(by_path[path].optimizer for path in light)
    assert plan.after == plan.before - gone == sum(item.size for item in everything) - gone
    if plan.over:
        assert all(stays(item, limit) for item in everything if item.path not in whole)
    # the oldest go first, checkpoints before snapshots, and none too many
    ages = [by_path[path].age_s for path in whole if by_path[path].sort == "checkpoint"]
    assert ages == sorted(ages, reverse=True)
    if any(by_path[path].sort == "snapshot" for path in whole):
        assert all(stays(item, limit) for item in everything if item.sort == "checkpoint" and item.path not in whole)
    if whole:
        assert plan.after + by_path[whole[-1]].size > limit.cap_bytes


@settings(max_examples=100, deadline=None)
@given(items, limits, st.integers(0, 99))
def test_the_order_of_looking_does_not_matter_and_twice_is_once(everything: list[Item], limit: Limits, seed: int) -> None:
    plan = decide(everything, limit)
    shuffled = list(everything)
    random.Random(seed).shuffle(shuffled)
    assert decide(shuffled, limit) == plan
    gone = {step.path: step for step in plan.steps}
    left = []
    for item in everything:
        step = gone.get(item.path)
        if step is None:
            left.append(item)
        elif step.what == "optimizer":
            left.append(Item(item.path, item.sort, item.size - item.optimizer, item.age_s, item.campaign, item.step, 0, item.protected))
    assert decide(left, limit).steps == ()


def test_the_caps_and_ages_of_the_spec() -> None:
    limit = Limits()
    assert (limit.cap_bytes, limit.min_age_s, limit.fresh_s) == (150 * GB, 36 * HOUR, HOUR)
