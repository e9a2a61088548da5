"""Families about numbers."""

from __future__ import annotations

from random import Random

from guild.evaluation.families.family import Family, Problem, number_of_digits


def _addition(rng: Random, rank: int) -> Problem:
    terms = [number_of_digits(rng, (2, 3, 5)[rank]) for _ in range((2, 3, 4)[rank])]
    return Problem(f"What is {' + '.join(map(str, terms))}?", str(sum(terms)))


def _subtraction(rng: Random, rank: int) -> Problem:
    a, b = (number_of_digits(rng, (2, 3, 6)[rank]) for _ in range(2))
    a, b = (max(a, b), min(a, b)) if rank < 2 else (a, b)
    return Problem(f"What is {a} - {b}?", str(a - b))


def _multiplication(rng: Random, rank: int) -> Problem:
    a, b = number_of_digits(rng, (1, 2, 3)[rank]), number_of_digits(rng, (2, 2, 3)[rank])
    return Problem(f"What is {a} * {b}?", str(a * b))


def _division(rng: Random, rank: int) -> Problem:
    b = rng.randint(2, (9, 25, 99)[rank])
    a = b * number_of_digits(rng, (1, 2, 4)[rank])
    a += 0 if rank == 0 else rng.randrange(b)
    return Problem(f"How many whole times does {b} go into {a}?", str(a // b))


def _remainder(rng: Random, rank: int) -> Problem:
    a, b = number_of_digits(rng, (2, 3, 5)[rank]), rng.randint(2, (9, 30, 250)[rank])
    return Problem(f"What is the remainder when {a} is divided by {b}?", str(a % b))


def _comparison(rng: Random, rank: int) -> Problem:
    if rank == 2:
        whole = rng.randint(0, 99)
        a, b = (f"{whole}.{number_of_digits(rng, rng.randint(1, 3))}" for _ in range(2))
    else:
        a, b = (str(number_of_digits(rng, (2, 5)[rank])) for _ in range(2))
    return Problem(f"Is {a} greater than {b}?", "yes" if float(a) > float(b) else "no")


def _rounding(rng: Random, rank: int) -> Problem:
    unit = (10, 100, 1000)[rank]
    number = number_of_digits(rng, (3, 4, 6)[rank])
    number += number % unit == unit // 2  # halves are rounded differently in different schools
    return Problem(f"Round {number} to the nearest {unit}.", str((number + unit // 2) // unit * unit))


def _digit_sum(rng: Random, rank: int) -> Problem:
    number = number_of_digits(rng, (3, 6, 12)[rank])
    return Problem(f"What is the sum of the digits of {number}?", str(sum(map(int, str(number)))))


def _parity(rng: Random, rank: int) -> Problem:
    if rank < 2:
        number = number_of_digits(rng, (3, 8)[rank])
        return Problem(f"Is {number} an even number?", "no" if number % 2 else "yes")
    a, b, c = (number_of_digits(rng, 3) for _ in range(3))
    return Problem(f"Is {a} * {b} + {c} an even number?", "no" if (a * b + c) % 2 else "yes")


FAMILIES = (
    Family("addition", "number", _addition),
    Family("subtraction", "number", _subtraction),
    Family("multiplication", "number", _multiplication),
    Family("division", "number", _division),
    Family("remainder", "number", _remainder),
    Family("comparison", "boolean", _comparison),
    Family("rounding", "number", _rounding),
    Family("digit_sum", "number", _digit_sum),
    Family("parity", "boolean", _parity),
)
