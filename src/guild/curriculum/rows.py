"""Samples of a skill as training rows. (specs/guild.md 2.4, 5.1, 5.5)

A row on disk has no system message: the preparation of training puts the dated base prompt before it (2.1.6), so that the date is that
of the training, and the same seed gives the same rows on every day.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from guild.curriculum.sources import Batch, SkillApiError, SourceInfo
from guild.validation.schemas import DEFAULT_SCHEMA

SCHEMA_ID = DEFAULT_SCHEMA
SOURCE = "skill_api"


def rows_of(batch: Batch, info: SourceInfo, level: int) -> list[dict[str, Any]]:
    """Chat rows with the metadata of 5.5. Raises SkillApiError naming the first samples that are none."""
    faults = list(_faults(batch.samples))
    if faults:
        more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
        raise SkillApiError(f"{info.address}: {'; '.join(faults[:5])}{more}; allowed: samples with user_prompt and assistant_response.")
    return [_row(sample, batch.level_info, info, level) for sample in batch.samples]


def jsonl(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """The rows as lines of JSON in UTF-8."""
    import orjson

    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def _row(sample: Mapping[str, Any], level_info: Mapping[str, Any], info: SourceInfo, level: int) -> dict[str, Any]:
    further = sample.get("metadata")
    bits = (further if isinstance(further, dict) else {}).get("bits", level_info.get("bits"))
    metadata = {
        "source": SOURCE,
        "generator_id": info.generator_id,
        "generator_version": info.generator_version,
        "skill": info.skill,
        "sample_id": sample.get("id"),
        "scenario": sample.get("scenario"),
        "tags": sample.get("tags") or [],
        "rubric": sample.get("rubric") or "",
        "level": level,
        "bits": bits,
        "schema_id": SCHEMA_ID,
    }
    return {
        "messages": [
            {"role": "user", "content": sample["user_prompt"]},
            {"role": "assistant", "content": sample["assistant_response"]},
        ],
        "metadata": metadata,
    }


def _faults(samples: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for number, sample in enumerate(samples):
        lacking = [key for key in ("user_prompt", "assistant_response") if not isinstance(sample.get(key), str)]
        if lacking:
            yield f"sample {number} has no text {' and '.join(lacking)}"
