"""From findings to sentences: which are errors, which warnings, and the numbers beside them. (specs/guild.md 5.2, 2.1.1)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from guild.validation.deep.checks import FILE_CHECKS, RowCheck
from guild.validation.deep.protocol import LEAST_ROWS, judge_share
from guild.validation.lengths import FIRST_ROWS, LengthSummary, RowLength, summarise
from guild.validation.merging import FileFindings
from guild.validation.policy import Policy
from guild.validation.rows import RowFault
from guild.validation.scan import Tally
from modelwright.errors import Fault


@dataclass
class Verdict:
    """What a report is made of."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stats: dict[str, Any] = field(default_factory=dict)

    def add(self, sentence: str, *, blocks: bool) -> None:
        (self.errors if blocks else self.warnings).append(sentence)


def judge_rows(path: str, found: FileFindings, verdict: Verdict, *, budget: int, examples: int | None) -> None:
    """QUICK: every fault with its line; blank lines, rows of another schema and a count that is not the sidecar's are warnings."""
    verdict.errors += [row_sentence(path, line, fault) for line, fault in found.faults]
    verdict.stats |= {"lines": found.lines, "rows": found.rows, "sound_rows": found.sound, "blank_lines": found.blank.rows}
    verdict.stats["stopped"] = found.stopped
    if found.stopped:
        verdict.warnings.append(f"{path}: stopped at line {found.lines} after {budget} errors; what follows was not looked at.")
        return
    if not found.rows:
        verdict.errors.append(Fault(path, "no row, only blank lines", "at least one row", "Write it again, or leave it out").sentence())
    if found.blank.rows:
        verdict.warnings.append(_tally_sentence(path, "blank lines", found.blank, found.lines, with_text=False))
    if found.other_schema.rows:
        verdict.warnings.append(_tally_sentence(path, "rows that name another schema than the file has", found.other_schema, found.rows))
    if examples is not None and examples != found.rows:
        todo = "Part of the file may be missing: compare it with its source"
        verdict.warnings.append(Fault(path, f"{found.rows} rows", f"the {examples} that its sidecar counts", todo).sentence())


def row_sentence(path: str, line: int, fault: RowFault) -> str:
    """`<path> line 7, messages[1].role: found …; allowed: ….`"""
    place = f"{path} line {line}" + (f", {fault.place}" if fault.place else "")
    return Fault(place, fault.found, fault.allowed, fault.todo).sentence()


def judge_lengths(path: str, sample: Sequence[RowLength], unit: str, limit: int | None, verdict: Verdict) -> None:
    """STANDARD: the summary of the sample; a 95th percentile above the limit is an error."""
    summary = summarise(sample, limit)
    verdict.stats["lengths"] = {"unit": unit, **_summary(summary)}
    if summary is not None and limit is not None and summary.p95 > limit:
        found = f"a 95th percentile of {summary.p95} tokens over {summary.rows} sampled rows ({summary.over:.0%} of them too long)"
        verdict.errors.append(_too_long(path, found, limit))


def judge_first_rows(path: str, first: Sequence[RowLength], limit: int, verdict: Verdict) -> None:
    """The token check before training: the first rows by themselves, and every reply among them."""
    summary = summarise(first, limit)
    verdict.stats["first_rows"] = _summary(summary)
    if summary is None:
        return
    if summary.p95 > limit:
        verdict.errors.append(_too_long(path, f"a 95th percentile of {summary.p95} tokens in the first {summary.rows} rows", limit))
    long = [length for length in first if length.output > limit]
    if long:
        found = f"a reply of {long[0].output} tokens (and {len(long) - 1} more such rows of the first {FIRST_ROWS})"
        verdict.errors.append(_too_long(f"{path} line {long[0].line}", found if len(long) > 1 else found.split(" (and")[0], limit))


def judge_deep(path: str, found: FileFindings, policy: Policy, verdict: Verdict, checks: dict[str, RowCheck]) -> None:
    """DEEP: each kind of finding in one sentence, a warning unless the policy blocks it."""
    rows = found.sound
    counts = {name: found.deep[name].rows if name in found.deep else 0 for name in checks if name not in policy.skip}
    verdict.stats["deep"] = counts
    for name, number in counts.items():
        if number:
            sentence = _tally_sentence(path, f"{checks[name].title} ({name})", found.deep[name], rows)
            verdict.add(sentence, blocks=policy.blocks(name, number / rows))
    if "duplicates" not in policy.skip:
        _judge_duplicates(path, found, policy, verdict)
    if "emoji_share" not in policy.skip:
        verdict.stats["marked_rows"] = found.marked
        wrong = judge_share(found.marked, rows, expected=policy.expect_marks)
        if wrong:
            sentence = f"{path}: {wrong} of the rows when they are {LEAST_ROWS} or more ({FILE_CHECKS['emoji_share']}; emoji_share)."
            verdict.add(sentence, blocks="emoji_share" in policy.block)


def _judge_duplicates(path: str, found: FileFindings, policy: Policy, verdict: Verdict) -> None:
    count = found.duplicates.count()
    exact = count.sampled == 1.0
    verdict.stats["duplicates"] = {
        "rows": count.rows,
        "repeated": count.repeated,
        "share": round(count.share, 6),
        "exact": exact,
        "sampled_share": count.sampled,
    }
    if count.repeated:
        places = ", ".join(f"line {line} repeats line {before}" for line, before in found.duplicates.examples)
        looked = f"{count.rows} rows" if exact else f"{count.rows} sampled rows"
        title = FILE_CHECKS["duplicates"]
        sentence = f"{path}: {title} (duplicates): {count.repeated} of {looked} ({count.share:.1%}); first {places}."
        verdict.add(sentence, blocks=policy.blocks("duplicates", count.share))


def _tally_sentence(path: str, title: str, tally: Tally, of: int, *, with_text: bool = True) -> str:
    lines = ", ".join(str(line) for line, _ in tally.examples)
    more = ", …" if tally.rows > len(tally.examples) else ""
    text = f"; the first: {tally.examples[0][1]}" if with_text else ""
    places = f"line {lines}" if tally.rows == 1 else f"lines {lines}{more}"
    return f"{path}: {title}: {tally.rows} of {of} ({tally.rows / of:.1%}), {places}{text}."


def _too_long(place: str, found: str, limit: int) -> str:
    return Fault(place, found, f"at most {limit} tokens (max_length)", "Raise max_length, or shorten or leave out the long rows").sentence()


def _summary(summary: LengthSummary | None) -> dict[str, Any]:
    return {"rows": 0} if summary is None else asdict(summary)
