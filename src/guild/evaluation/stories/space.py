"""Stories about directions: one relation, positions, and ways through a house."""

from __future__ import annotations

from random import Random

from guild.evaluation.families.family import Family, Problem, comma
from guild.evaluation.stories.world import PLACES, story

_STEPS = {"north": (0, 1), "east": (1, 0), "south": (0, -1), "west": (-1, 0)}
_BACK = {"north": "south", "south": "north", "east": "west", "west": "east"}
_SHAPES = ("red square", "blue circle", "green triangle", "yellow star", "white cross", "black ring")


def _relations(rng: Random, rank: int) -> Problem:
    _, lines, edges = _house(rng, 3 + 2 * rank)
    one, way, two = rng.choice(edges)
    if rng.random() < 0.5:
        return Problem(story(lines, f"Which room is {way} of the {two}?"), one)
    return Problem(story(lines, f"Of which room is the {one} directly {way}?"), two)


def _house(rng: Random, size: int) -> tuple[list[str], list[str], list[tuple[str, str, str]]]:
    """Rooms on a grid that form a tree: names, lines in any order, and (room, way, other): the room lies that way of the other. No two
    rooms that are not told of lie side by side, so that each question has one answer."""
    while True:
        names = rng.sample(PLACES, size)
        at = {names[0]: (0, 0)}
        edges: list[tuple[str, str, str]] = []
        for name in names[1:]:
            anchor, way = rng.choice(sorted(at)), rng.choice(sorted(_STEPS))
            x, y = at[anchor][0] + _STEPS[way][0], at[anchor][1] + _STEPS[way][1]
            beside = [other for other, (a, b) in at.items() if abs(a - x) + abs(b - y) == 1]
            if (x, y) in at.values() or beside != [anchor]:
                break
            at[name] = (x, y)
            edges.append((name, way, anchor))
        if len(at) == size:
            lines = [f"The {one} is {way} of the {other}." for one, way, other in edges]
            rng.shuffle(lines)
            return names, lines, edges


def _path(rng: Random, rank: int) -> Problem:
    wanted = (2, 3, 4)[rank]
    while True:
        names, lines, edges = _house(rng, wanted + 2 + rank)
        start, goal = rng.sample(names, 2)
        steps = _way(edges, start, goal)
        if len(steps) == wanted:
            return Problem(story(lines, f"Which directions lead from the {start} to the {goal}?"), comma(steps))


def _way(edges: list[tuple[str, str, str]], start: str, goal: str) -> list[str]:
    """The directions from one room of the tree to another."""
    ways = [(other, way, one) for one, way, other in edges] + [(one, _BACK[way], other) for one, way, other in edges]
    paths: dict[str, list[str]] = {start: []}
    ahead = [start]
    while ahead:
        here = ahead.pop()
        for one, way, two in ways:
            if one == here and two not in paths:
                paths[two] = [*paths[here], way]
                ahead.append(two)
    return paths[goal]


def _position(rng: Random, rank: int) -> Problem:
    shapes = rng.sample(_SHAPES, (2, 3, 5)[rank])
    at: dict[str, tuple[int, int]] = {shapes[0]: (0, 0)}
    lines = []
    words = {"above": (0, 1), "below": (0, -1), "to the left of": (-1, 0), "to the right of": (1, 0)}
    for one, two in zip(shapes[1:], shapes, strict=False):
        word = rng.choice(sorted(words))
        at[one] = (at[two][0] + words[word][0], at[two][1] + words[word][1])
        lines.append(f"The {one} is directly {word} the {two}.")
    while True:
        one, two = rng.sample(shapes, 2)
        word = rng.choice(sorted(words))
        (x, y), (dx, dy) = (at[one][0] - at[two][0], at[one][1] - at[two][1]), words[word]
        along = x * dx + y * dy
        if (x * dx, y * dy) != (0, 0):  # level with it is neither above nor below
            return Problem(story(lines, f"Is the {one} {'further ' + word if dx else word} the {two}?"), "yes" if along > 0 else "no")


TASKS = (
    Family("relations", "word", _relations),
    Family("path_finding", "list", _path),
    Family("position", "boolean", _position),
)
