"""Families about units, dates, clocks and tables."""

from __future__ import annotations

from datetime import date, timedelta
from random import Random

from guild.evaluation.families.family import WORDS, Family, Problem

_UNITS = (
    (("metres", "centimetres", 100), ("kilograms", "grams", 1000), ("hours", "minutes", 60), ("minutes", "seconds", 60)),
    (("kilometres", "metres", 1000), ("days", "hours", 24), ("litres", "millilitres", 1000), ("weeks", "days", 7)),
    (("days", "minutes", 1440), ("kilometres", "centimetres", 100_000), ("weeks", "hours", 168), ("hours", "seconds", 3600)),
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_FIRST = date(2001, 1, 1)


def _unit_conversion(rng: Random, rank: int) -> Problem:
    large, small, factor = rng.choice(_UNITS[rank])
    count = rng.randint(2, (30, 90, 40)[rank])
    if rank == 1 and rng.random() < 0.5:
        return Problem(f"How many {large} are {count * factor} {small}?", str(count))
    return Problem(f"How many {small} are {count} {large}?", str(count * factor))


def _date_arithmetic(rng: Random, rank: int) -> Problem:
    day = _FIRST + timedelta(days=rng.randrange(9000))
    days = rng.randint(1, (9, 60, 700)[rank])
    later = rank == 0 or rng.random() < 0.5
    found = day + timedelta(days=days if later else -days)
    word = "after" if later else "before"
    return Problem(f"Which date is {days} {'day' if days == 1 else 'days'} {word} {day}? Write it as YYYY-MM-DD.", str(found))


def _weekday(rng: Random, rank: int) -> Problem:
    today, days = rng.randrange(7), rng.randint((1, 8, 61)[rank], (7, 60, 2000)[rank])
    back = rank > 0 and rng.random() < 0.5
    found = _WEEKDAYS[(today + (-days if back else days)) % 7]
    asked = f"Which day was it {days} days ago" if back else f"Which day is it in {days} {'day' if days == 1 else 'days'}"
    return Problem(f"Today is {_WEEKDAYS[today]}. {asked}?", found)


def _clock(rng: Random, rank: int) -> Problem:
    start, minutes = rng.randrange(1440), rng.randint(1, 3) * 60 if rank == 0 else rng.randint(5, (300, 2000)[rank - 1])
    back = rank == 2 and rng.random() < 0.5
    end = (start + (-minutes if back else minutes)) % 1440
    word = "before" if back else "after"
    return Problem(f"What time is it {minutes} minutes {word} {_hhmm(start)}? Write it as HH:MM.", _hhmm(end))


def _hhmm(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _table_lookup(rng: Random, rank: int) -> Problem:
    rows = rng.sample(WORDS, (3, 5, 8)[rank])
    columns = ("price", "weight", "stock")[: rank + 1]
    cells = {(row, column): rng.randint(1, 99) for row in rows for column in columns}
    lines = ["item | " + " | ".join(columns)]
    lines += [f"{row} | " + " | ".join(str(cells[row, column]) for column in columns) for row in rows]
    row, column = rng.choice(rows), rng.choice(columns)
    return Problem("\n".join(lines) + f"\nWhat is the {column} of {row}?", str(cells[row, column]))


FAMILIES = (
    Family("unit_conversion", "number", _unit_conversion),
    Family("date_arithmetic", "text", _date_arithmetic),
    Family("weekday", "word", _weekday),
    Family("clock", "text", _clock),
    Family("table_lookup", "number", _table_lookup),
)
