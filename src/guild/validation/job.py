"""The gate of a training job: its keys, the schema of its file, and rows that have that schema's column. (specs/guild.md 5.1)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guild.validation.failures import checked
from guild.validation.gate import LIMITS, FileLimits, admit, require_unchanged
from guild.validation.judging import Verdict, judge_rows, row_sentence
from guild.validation.origin import choose_schema, maker, read_origin, read_sidecar
from guild.validation.report import SPEC_VALIDATOR, Generator, ValidationReport, make_report
from guild.validation.rows import shown, validate_row
from guild.validation.scan import ScanTask
from guild.validation.schemas import JOB_KEYS, SCHEMAS
from guild.validation.validate import MOST_ERRORS, WHOLE, scan_file
from modelwright.errors import Fault


def check_job(
    job: Mapping[str, Any], *, allow_default: bool = False, strict: bool = False, limits: FileLimits = LIMITS
) -> ValidationReport:
    """Whether a job says what its schema asks for and its file has that schema; every fault at once, never an exception.

    job: `dataset_path` and `base_model` are required, `schema_id` is looked for. strict: every row is checked, its metadata keys
    included; otherwise only the first row is (`validate_file` looks at all of them).
    """
    path = job.get("dataset_path")
    faults = [
        Fault(f"job.{key}", shown(job[key]) if key in job else "nothing", "a text", f"Add {key} to the job")
        for key in JOB_KEYS
        if not isinstance(job.get(key), str) or not str(job[key]).strip()
    ]
    named = job.get("schema_id")
    if named is not None and not isinstance(named, str):
        faults.append(Fault("job.schema_id", shown(named), f"one of {', '.join(SCHEMAS)}"))
    sentences = [fault.sentence() for fault in faults]
    if not isinstance(path, str) or not path.strip():
        return make_report(SPEC_VALIDATOR, Generator(), sentences)
    generator = Generator()

    def validate() -> ValidationReport:
        nonlocal generator
        verdict = Verdict(errors=sentences)
        sidecar = read_sidecar(path)
        generator = maker(sidecar)
        state = admit(path, limits)
        origin = read_origin(path, sidecar, max_line_bytes=limits.line_bytes)
        generator = origin.generator
        schema, source = choose_schema(path, origin, named if isinstance(named, str) else None, allow_default=allow_default)
        verdict.stats |= {"schema_id": schema.id, "schema_source": source, "bytes": state.size, "strict": strict}
        if strict:
            task = ScanTask(path, 0, state.size, schema.id, MOST_ERRORS, strict=True, max_line_bytes=limits.line_bytes)
            judge_rows(path, scan_file(task, WHOLE.ranges(state.size, 1)), verdict, budget=MOST_ERRORS, examples=origin.examples)
        elif origin.first_row is None:
            verdict.errors.append(Fault(path, "no JSON object as the first row", f"a row with the column {schema.column!r}").sentence())
        else:
            verdict.errors += [row_sentence(path, origin.first_line, fault) for fault in validate_row(origin.first_row, schema)]
        require_unchanged(path, state)
        return make_report(SPEC_VALIDATOR, generator, verdict.errors, verdict.warnings, verdict.stats)

    report = checked(validate, path, validator=SPEC_VALIDATOR, generator=lambda: generator)
    missing = [sentence for sentence in sentences if sentence not in report.errors]
    return make_report(SPEC_VALIDATOR, generator, (*missing, *report.errors), report.warnings, report.stats) if missing else report
