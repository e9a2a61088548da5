"""The `data` section of a CacheMedic configuration over the packaged sample, and a test's own files."""

from __future__ import annotations

from cachemedicpp.config.sections import DataSettings

LONG_CONTEXT = {
    "seed": 2025,
    "context_len": 160,
    "needle_token": "the_key",
    "needle_value": "violet-7",
    "position_frac": 0.35,
    "question_template": "Question: What is {needle_token}? Answer:",
}


def data_settings(
    text: str = "data/offline/wikitext2_sample.txt", reviews: str = "data/offline/sst2_sample.jsonl", *, offline: bool = True
) -> DataSettings:
    paths = {"wikitext2": text, "sst2": reviews}
    return DataSettings.model_validate({"use_offline": offline, "offline_paths": paths, "long_context": LONG_CONTEXT})
