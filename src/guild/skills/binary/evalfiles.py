"""Evaluation sets as files: `level_NN.json`, and the older single file keyed by level. (specs/guild.md 6.1)

`python -m guild.evaluation.sets --evaluation-files` writes them; those that lie in `data/validation/binary` are read with that set.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guild.skills.binary import dialect
from guild.skills.binary.judge import form_of
from guild.skills.binary.levels import MAX_LEVEL, level_name, operand_bits
from guild.skills.binary.skill import BinarySkill
from guild.skills.contract import Sample
from modelwright.errors import ConfigError, Fault
from modelwright.files import read_json, write_json

PASS_THRESHOLD = 0.8
SCORING_RULE = "correct when the result field of the reply equals the golden one, spaces ignored; the score is the share of correct replies"
PER_LEVEL = 20


NAMES = ("level_*.json", "bin_validation.json")
"""What evaluation files are called."""


def file_name(level: int) -> str:
    """`level_NN.json`."""
    return f"level_{level:02d}.json"


def evaluation_document(skill: BinarySkill, level: int, count: int = PER_LEVEL) -> dict[str, Any]:
    """The fixed evaluation set of a level as the JSON document of its file."""
    problems = [
        {
            "prompt": sample.user_prompt,
            "expected": sample.assistant_response,
            "metadata": {"scenario": sample.scenario, "tags": list(sample.tags)},
        }
        for sample in skill.evaluation(level, count)
    ]
    return {
        "schema_version": 1,
        "level": level,
        "level_name": level_name(level),
        "bits": operand_bits(level),
        "eval_version": skill.version,
        "pass_threshold": PASS_THRESHOLD,
        "scoring_rule": SCORING_RULE,
        "problems": problems,
    }


def write_evaluation_files(skill: BinarySkill, folder: Path, count: int = PER_LEVEL) -> list[Path]:
    """Write the set of every level below `folder`; returns the paths."""
    paths = []
    for level in range(1, MAX_LEVEL + 1):
        paths.append(folder / file_name(level))
        write_json(paths[-1], evaluation_document(skill, level, count))
    return paths


def read_evaluation_file(path: Path) -> dict[int, list[Sample]]:
    """Level → samples, of a `level_NN.json` or of a file keyed by level (`{"1": [...]}` or `{"1": {"problems": [...]}}`).

    Samples of the older dialect have the scenario `dialect.OLD_FORM`, which the skill's judge knows. Raises ConfigError with every
    fault, and what `read_json` raises.
    """
    document = read_json(path)
    faults: list[Fault] = []
    found: dict[int, list[Sample]] = {}
    if not isinstance(document, Mapping):
        raise ConfigError([Fault(str(path), type(document).__name__, "a JSON object")])
    keyed = {str(document["level"]): document} if "problems" in document and "level" in document else document
    for name, content in keyed.items():
        problems = content.get("problems") if isinstance(content, Mapping) else content
        if not name.isdecimal():
            continue  # metadata of the file itself
        if not isinstance(problems, list):
            faults.append(Fault(f"{path} level {name}", type(problems).__name__, "a list of problems"))
            continue
        level = int(name)
        read = [_sample(path, level, at, entry, faults) for at, entry in enumerate(problems)]
        found[level] = [sample for sample in read if sample is not None]
    if not found and not faults:
        faults.append(Fault(str(path), "no level", "a level with its problems, or levels as keys"))
    if faults:
        raise ConfigError(faults)
    return found


def _sample(path: Path, level: int, at: int, entry: Any, faults: list[Fault]) -> Sample | None:
    if not isinstance(entry, Mapping) or not all(isinstance(entry.get(field), str) for field in ("prompt", "expected")):
        faults.append(Fault(f"{path} level {level} problem {at + 1}", repr(entry)[:60], "an object with the texts prompt and expected"))
        return None
    metadata = entry.get("metadata")
    known = metadata if isinstance(metadata, Mapping) else {}
    return stored_sample(f"bin-file-L{level:02d}-{at:04d}", entry["prompt"], entry["expected"], known, level)


def stored_sample(identity: str, prompt: str, expected: str, metadata: Mapping[str, Any], level: int | None = None) -> Sample:
    """A problem of a file as the skill's judge knows it: by its scenario, by the form of its prompt, or in the older dialect."""
    form = dialect.OLD_FORM if dialect.is_old({"prompt": prompt}) else form_of(str(metadata.get("scenario")), prompt)
    tags = metadata.get("tags")
    labels = tuple(map(str, tags)) if isinstance(tags, list) else ()
    return Sample(identity, prompt, expected, labels, "", form, {} if level is None else {"level": level})
