"""`python -m guild.evaluation.sets`: the validation sets, made from a seed. (specs/guild.md 4.7; issue, Build 5)

Four sets below `data/validation/`: `primitives` (40 families), `benchmarks` (20 kinds of stories), `binary` and `syllo_10level` (held-out
problems of the skills). The same seed gives the same bytes on every machine. A set that is there is never touched, whoever made it;
`stored_sets` reads them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from guild.command import process
from guild.evaluation.families import DIFFICULTIES, FAMILIES, Family
from guild.evaluation.rows import ANSWER, Row, row_of_sample, write_rows
from guild.evaluation.stories import TASKS
from guild.places import VARIABLE, Places
from modelwright.errors import UsageError, storage_error
from modelwright.files import fsync_directory, make_folder, sha256_file, write_json

SetName = Literal["primitives", "benchmarks", "binary", "syllo_10level"]
SETS: tuple[SetName, ...] = get_args(SetName)
VERSION = "1.0.0"
"""Of the generators; another version may give other rows for the same seed."""
SEED = 20260101
MANIFEST = "manifest.json"
PER_DIFFICULTY = 40
"""Rows of a family at each of the three difficulties."""
EVALUATION_FILES = "bin"
"""Folder of BIN's evaluation files below `data/validation`, `eval.local_cache` of its skill file."""
BINARY_ROWS = 100
SYLLABLE_ROWS = 20
_BINARY_LEVELS = tuple(range(2, 21))
_EXAMPLES = """\
examples:
  python -m guild.evaluation.sets
  python -m guild.evaluation.sets --seed 7 --only primitives --json
  python -m guild.evaluation.sets --evaluation-files          data/validation/bin/level_01.json to level_30.json

A set that is there already is kept as it is; move it away to have it made anew.

exit codes: 0 every set is there, 1 one could not be written, 2 wrong arguments.
"""


@dataclass(frozen=True)
class Made:
    """One set after `make_sets`. new: made now, otherwise it was there. rows: of a new one."""

    name: SetName
    folder: Path
    new: bool
    rows: int = 0


def make_sets(places: Places, *, seed: int = SEED, only: Sequence[SetName] = SETS) -> list[Made]:
    """Make the sets that are missing, each whole or not at all. Raises StorageError."""
    return [_make(places, name, seed) for name in SETS if name in only]


def set_files(name: SetName, seed: int = SEED) -> dict[str, list[Row]]:
    """What a set holds: path below its folder → rows."""
    return _CONTENTS[name](seed)


def family_rows(family: Family, seed: int, count: int = PER_DIFFICULTY) -> dict[str, list[Row]]:
    """The rows of one family by difficulty; those of a smaller count are the beginning of those of a larger one."""
    meta = {"judge": f"{ANSWER}{family.answer}", "version": VERSION}
    return {
        difficulty: [
            Row(family.name, difficulty, problem.question, problem.answer, {**meta, "id": f"{family.name}-{difficulty}-{at:04d}"})
            for at, problem in enumerate(family.problems(difficulty, count, seed))
        ]
        for difficulty in DIFFICULTIES
    }


def make_evaluation_files(places: Places) -> list[Path]:
    """BIN's fixed evaluation problems of every level as `data/validation/bin/level_NN.json`, with the options of the installation's skill
    file: what its server answers at `/eval`, for other programs. Those that are there are replaced. Raises UsageError when `bin` is
    another class here, StorageError."""
    from guild.skills.binary.evalfiles import write_evaluation_files
    from guild.skills.binary.skill import BinarySkill
    from guild.skills.registry import load_skill

    skill = load_skill("bin", folder=places.skills)
    if not isinstance(skill, BinarySkill):
        raise UsageError(f"--evaluation-files: found the skill bin of the class {type(skill).__name__}; allowed: BinarySkill.")
    return write_evaluation_files(skill, make_folder(places.validation_data / EVALUATION_FILES))


def _make(places: Places, name: SetName, seed: int) -> Made:
    folder = places.validation_data / name
    if folder.exists() and any(folder.iterdir()):
        return Made(name, folder, False)
    draft = folder.with_name(f".{name}.{os.getpid()}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    files = set_files(name, seed)
    try:
        for path, rows in files.items():
            make_folder((draft / path).parent)
            write_rows(draft / path, rows)
        write_json(draft / MANIFEST, manifest(name, seed, files, draft))
        try:
            os.rename(draft, folder)  # takes the place of an empty folder; one that was filled meanwhile stays
        except OSError as error:
            if folder.exists() and any(folder.iterdir()):
                return Made(name, folder, False)
            raise storage_error(error, folder, "make the set") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    fsync_directory(folder.parent)
    return Made(name, folder, True, sum(map(len, files.values())))


def manifest(name: SetName, seed: int, files: Mapping[str, Sequence[Row]], folder: Path) -> dict[str, Any]:
    """What `manifest.json` of a set says: how it was made, and each file's rows and digest. It holds no time, so that sets of one seed are
    equal."""
    listed = {path: {"rows": len(rows), "sha256": sha256_file(folder / path)} for path, rows in sorted(files.items())}
    count = sum(map(len, files.values()))
    return {"schema_version": 1, "set": name, "generator_version": VERSION, "seed": seed, "rows": count, "files": listed}


def _families(families: Sequence[Family]) -> Callable[[int], dict[str, list[Row]]]:
    def contents(seed: int) -> dict[str, list[Row]]:
        return {f"{one.name}/{kind}.jsonl": rows for one in families for kind, rows in family_rows(one, seed).items()}

    return contents


def _binary(seed: int) -> dict[str, list[Row]]:
    """Held-out problems of levels 2 to 20 by the difficulty that the skill gives them, in turn from each level."""
    from guild.skills.binary.skill import BinarySkill

    skill = BinarySkill()
    found: dict[str, list[Row]] = {difficulty: [] for difficulty in DIFFICULTIES}
    pools = [iter(skill.evaluation(level, 200, seed)) for level in _BINARY_LEVELS]
    seen: set[str] = set()
    while pools and any(len(rows) < BINARY_ROWS for rows in found.values()):
        for pool in list(pools):
            sample = next(pool, None)
            if sample is None:
                pools.remove(pool)
                continue
            rows = found.get(str(sample.metadata["difficulty"]))
            if rows is not None and len(rows) < BINARY_ROWS and sample.user_prompt not in seen:
                seen.add(sample.user_prompt)
                rows.append(row_of_sample(skill, str(sample.metadata["difficulty"]), sample))
    return {f"{difficulty}.jsonl": rows for difficulty, rows in found.items()}


def _syllables(seed: int) -> dict[str, list[Row]]:
    from guild.skills.syllables.skill import SyllableSkill

    skill = SyllableSkill(edition=10)
    return {
        f"level_{level:02d}.jsonl": [
            row_of_sample(skill, f"level_{level:02d}", sample) for sample in skill.evaluation(level, SYLLABLE_ROWS, seed)
        ]
        for level in range(1, 11)
    }


_CONTENTS: dict[SetName, Callable[[int], dict[str, list[Row]]]] = {
    "primitives": _families(FAMILIES),
    "benchmarks": _families(TASKS),
    "binary": _binary,
    "syllo_10level": _syllables,
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m guild.evaluation.sets`."""
    parser = argparse.ArgumentParser(
        prog="python -m guild.evaluation.sets",
        description="Make the validation sets that are missing: primitives, benchmarks, binary, syllo_10level. The same seed gives the "
        "same rows.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--base-dir", metavar="DIR", help=f"the guild's house (default: ${VARIABLE}, else ~/.modelwright/guild)")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help=f"(default: {SEED})")
    parser.add_argument("--only", action="append", choices=SETS, help="make this set alone; may be given again")
    parser.add_argument(
        "--evaluation-files", action="store_true", help="write BIN's evaluation problems by level instead, for other programs"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Make what is missing, and say so."""
    given = build_parser().parse_args(argv)
    if given.evaluation_files:
        files = make_evaluation_files(Places.of(given.base_dir))
        told_files = {"schema_version": 1, "files": [str(path) for path in files]}
        print(json.dumps(told_files, indent=2) if given.json else f"bin: {len(files)} evaluation files ({files[0].parent})")
        return 0
    made = make_sets(Places.of(given.base_dir), seed=given.seed, only=given.only or SETS)
    if given.json:
        told = [{"set": one.name, "folder": str(one.folder), "new": one.new, "rows": one.rows} for one in made]
        print(json.dumps({"schema_version": 1, "seed": given.seed, "sets": told}, indent=2))
        return 0
    for one in made:
        print(f"{one.name}: {f'{one.rows} rows' if one.new else 'kept as it is'} ({one.folder})")
    return 0


def run() -> int:
    """The process: errors as sentences."""
    return process(main)


if __name__ == "__main__":
    raise SystemExit(run())
