"""One file as windows: prepared, encoded, packed, and its masks judged before the first step. (specs/guild.md 2.1.4, 5.3)

Everything here follows from the file's bytes and the settings, so a file that was interrupted is cut into the same windows again; the
digest says whether it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

from guild.training.collator import Collator
from guild.training.encoding import encode_rows
from guild.training.interface import TrainerConfig
from guild.training.masking_limits import MaskingLimits, limits_for
from guild.training.masking_validators import validate_masking
from guild.training.model_session import ModelSession
from guild.training.packing import TrainingWindows, packing_enabled, training_windows
from guild.training.preparation import DatasetPreparer, PreparedRows
from guild.training.profiles import get_profile
from modelwright.files import sha256_file

MASKING_BATCHES = 4


@dataclass(frozen=True)
class FileData:
    """training: windows in the order of their steps. validation: windows of the held-out rows, None when the file is too small to hold any
    back; held: these rows, prepared. digest: SHA-256 over the training windows. file_sha256: over the file's bytes. rows: how many are
    trained. reports: what was done."""

    training: TrainingWindows
    validation: TrainingWindows | None
    held: PreparedRows
    collate: Collator
    digest: str
    file_sha256: str
    rows: int
    reports: dict[str, Any]


def load_file(config: TrainerConfig, session: ModelSession) -> FileData:
    """Prepare a file for a model. Raises LoadError, StorageError, MaskingValidationError."""
    hyper, data = config.hyperparams, config.data
    preparer = DatasetPreparer(
        get_profile(config.profile),
        date.fromisoformat(config.environment.prompt_date),
        validation_split=data.validation_split,
        max_validation=data.max_val,
        seed=hyper.seed,
    )
    prepared = preparer.prepare(data.path)
    encoded = encode_rows(prepared.training, session.tokenizer, marks=session.marks, max_length=hyper.max_length)
    packing = packing_enabled(default=hyper.packing)
    training = training_windows(encoded.documents, hyper.max_length, pad_id=session.pad_id, seed=hyper.seed, packing=packing)
    collate = Collator(session.pad_id)
    results = validate_masking(
        _first_batches(training, collate, hyper.batch_size),
        session.tokenizer,
        marks=session.marks,
        pad_id=session.pad_id,
        limits=MaskingLimits(*data.masking) if data.masking else limits_for(data.generator, config.profile, data.schema),
        packing=packing,
    )
    reports = {
        "preparation": prepared.report.as_dict(),
        "encoding": encoded.report.as_dict(),
        "packing": {"windows": len(training), "tokens": training.tokens, "efficiency": training.efficiency, "packed": packing},
        "masking": [{"validator": result.validator_name, "passed": result.passed, "message": result.message} for result in results],
        "template": {"overridden": session.template.overridden, "reason": session.template.reason},
        "optimizer": session.optimizer_info.as_dict() | {"note": session.note},
    }
    validation = None
    if len(prepared.validation):
        held = encode_rows(prepared.validation, session.tokenizer, marks=session.marks, max_length=hyper.max_length, empty_ok=True)
        if held.documents:
            validation = training_windows(held.documents, hyper.max_length, pad_id=session.pad_id, seed=hyper.seed, packing=packing)
    return FileData(
        training, validation, prepared.validation, collate, _digest(training), sha256_file(data.path), encoded.report.encoded, reports
    )


def _first_batches(windows: TrainingWindows, collate: Collator, size: int) -> Iterator[dict[str, Any]]:
    """The first, and some spread over the file."""
    count = -(-len(windows) // size)
    chosen = sorted({round(i * (count - 1) / max(1, MASKING_BATCHES - 1)) for i in range(MASKING_BATCHES)})
    for batch in chosen:
        yield collate([windows[at] for at in range(batch * size, min((batch + 1) * size, len(windows)))])


def _digest(windows: TrainingWindows) -> str:
    digest = hashlib.sha256()
    for window in windows.windows:
        digest.update(window.input_ids.tobytes())
        digest.update(window.labels.tobytes())
    return digest.hexdigest()
