"""Stamps and clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.clock import SYSTEM_CLOCK, ManualClock, boot_seconds, parse_stamp, stamp


def test_stamp_has_the_form_of_the_data_contract() -> None:
    moment = datetime(2024, 5, 26, 20, 42, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    assert stamp(moment) == "2024-05-26T18:42:00Z"
    assert stamp(moment, millis=True) == "2024-05-26T18:42:00.123Z"
    with pytest.raises(ValueError, match="aware"):
        stamp(datetime(2024, 5, 26))


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)))
def test_parse_stamp_undoes_stamp(moment: datetime) -> None:
    assert parse_stamp(stamp(moment, millis=True)) == moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def test_manual_clock_parts_wall_and_monotonic_time() -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    clock.sleep(5)
    clock.jump(-86400)
    assert clock.monotonic() == 5
    assert clock.now() == datetime(2025, 12, 31, 0, 0, 5, tzinfo=UTC)


def test_system_clock_moves_forward() -> None:
    before = SYSTEM_CLOCK.monotonic()
    SYSTEM_CLOCK.sleep(0.01)
    assert SYSTEM_CLOCK.monotonic() - before >= 0.01
    assert SYSTEM_CLOCK.now().tzinfo is UTC
    assert boot_seconds() is None or boot_seconds() > 0
