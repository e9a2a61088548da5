"""A validator that fails itself: never a reason to go on, always a sentence. (specs/guild.md 5.2, 10.1 no. 7)"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path

from guild.validation.report import DATA_VALIDATOR, Generator, ValidationReport, Validator, make_report
from modelwright.errors import ModelwrightError, storage_error


def checked(
    validate: Callable[[], ValidationReport],
    path: str | PathLike[str],
    *,
    validator: Validator = DATA_VALIDATOR,
    generator: Callable[[], Generator] = Generator,
) -> ValidationReport:
    """What `validate` reports; or, when it raises anything, a report that the file is invalid, with the reason.

    generator: called after a failure, for what is known by then of who made the file.
    """
    try:
        return validate()
    except Exception as error:  # noqa: BLE001 - whatever a check raises, the file counts as invalid and the report says why
        return make_report(validator, generator(), [failure_sentence(error, path)])


def failure_sentence(error: Exception, path: str | PathLike[str]) -> str:
    """What ended a validation: an error's own sentence, or for a defect what was raised and where."""
    if isinstance(error, ModelwrightError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return str(storage_error(error, error.filename or path, "read"))
    import traceback  # only now: it is slow to import

    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].name} ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return (
        f"{fspath(path)}: found a check that failed itself ({what}{place}); allowed: checks that finish. "
        "The file counts as invalid until the check is mended."
    )
