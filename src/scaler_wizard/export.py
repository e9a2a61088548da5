"""Step 7: what a finished run hands over.

`adapters/` (PEFT), `tokenizer/`, `model/` (patched config.json, and the merged weights when asked for). Each folder is
written aside, checked and then swapped in whole, so that a kill leaves either the old folder or the new one. Merged
weights are loaded again with plain transformers and their logits compared with the adapters' before the export counts
as done.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelwright.errors import ModelwrightError
from modelwright.files import fsync_directory, write_json
from scaler_wizard.preparation import CONFIG_KEYS, Prepared, context_of, write_context
from scaler_wizard.session import Session

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}  # absolute, on logits
CHECKED_TOKENS = 256


class ExportMismatch(ModelwrightError):
    """Exported weights do not compute what the trained model computes."""

    exit_code = 8


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far the logits of the merged model are from the adapters' (None without a merge)."""

    files: tuple[str, ...]
    merged: bool
    logit_difference: float | None
    tolerance: float | None
    checked_tokens: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def export(session: Session, prepared: Prepared, length: int, probe_text: str) -> ExportReport:
    """Write adapters, tokenizer and model folder for a context of `length` tokens.

    `probe_text` gives the tokens on which merged and adapter logits are compared. The live model is merged in place at
    the end when the job asks for it: nothing may train afterwards.

    Raises ExportMismatch when the merged model computes something else, ModelwrightError for a file system that
    refuses.
    """
    run, model, tokenizer = session.path, prepared.model, prepared.tokenizer
    model.eval()
    replace_folder(run / "adapters", lambda folder: _write_adapters(prepared, folder, length))
    tokenizer.model_max_length = length
    replace_folder(run / "tokenizer", lambda folder: tokenizer.save_pretrained(str(folder)))
    patch = context_of(model)
    difference = tolerance = None
    ids = check_ids(tokenizer, probe_text, length)
    if session.job.export.merge:
        expected = logits_of(model, ids)
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        tolerance = TOLERANCE.get(dtype, TOLERANCE["bfloat16"])
        merged = model.merge_and_unload()

        def write_merged(folder: Path) -> None:
            nonlocal difference
            merged.config.use_cache = prepared.base_config.get("use_cache", True)
            merged.save_pretrained(str(folder), safe_serialization=True)
            tokenizer.save_pretrained(str(folder))
            difference = _reloaded_difference(folder, ids, expected, dtype)
            if not difference <= tolerance:
                raise ExportMismatch(
                    f"The merged weights give logits that differ by {difference:.3g} from the adapters' (allowed "
                    f"{tolerance:g}): "
                    "model/ was not written. The adapters are complete; load the run with merged=False and report this."
                )

        replace_folder(run / "model", write_merged)
    else:
        replace_folder(run / "model", lambda folder: _write_config(prepared.base_config, patch, model, folder))
    files = [path.relative_to(run).as_posix() for name in ("adapters", "tokenizer", "model") for path in sorted((run / name).rglob("*"))]
    return ExportReport(tuple(files), bool(session.job.export.merge), difference, tolerance, len(ids))


def patched_config(base_config: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """The base model's configuration with the keys of the new context in place of its own."""
    config = {key: value for key, value in base_config.items() if key not in (*CONFIG_KEYS, "rope_scaling", "rope_theta")}
    return {**config, **patch}


def replace_folder(target: Path, fill: Callable[[Path], Any]) -> None:
    """Fill a folder aside and swap it in: `target` is the old one or the new one, never a mixture, and both survive a
    failure.
    """
    staging = target.with_name(f".{target.name}.new")
    aside = target.with_name(f".{target.name}.old")
    for leftover in (staging, aside):
        if leftover.exists() and (leftover is staging or target.exists()):
            shutil.rmtree(leftover)
    staging.mkdir(parents=True)
    fill(staging)
    for path in sorted(staging.rglob("*")):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    if target.exists():
        os.rename(target, aside)
    os.rename(staging, target)
    fsync_directory(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def check_ids(tokenizer: Any, text: str, length: int) -> list[int]:
    """Up to CHECKED_TOKENS tokens of `text`, at least one."""
    ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])[: min(CHECKED_TOKENS, length)]
    return ids or [0]


def logits_of(model: Any, ids: list[int]) -> Any:
    """Logits [T, V] in float32 on the CPU, whatever the model read before."""
    import torch

    from modelwright.probes.quiet import start_afresh, undisturbed

    with undisturbed(model):
        start_afresh(model)
        return model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0].float().cpu()


def _reloaded_difference(folder: Path, ids: list[int], expected: Any, dtype: str) -> float:
    """Largest absolute difference of logits between what is on disk, loaded as plain transformers does, and
    `expected`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(str(folder), dtype=getattr(torch, dtype), local_files_only=True).eval()
    return float((logits_of(loaded, ids) - expected).abs().max())


def _write_adapters(prepared: Prepared, folder: Path, length: int) -> None:
    prepared.strategy.save(prepared.model, folder)
    write_context(folder, prepared.model, length)


def _write_config(base_config: Mapping[str, Any], patch: Mapping[str, Any], model: Any, folder: Path) -> None:
    write_json(folder / "config.json", patched_config(base_config, patch), durable=False)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(str(folder))
