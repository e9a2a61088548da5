"""The judge: the result field of a reply, by form, compared exactly with the golden one; spaces do not count. (specs/guild.md 6.1)

The same judge serves evaluation, sparring, previews and baselines. It never raises, whatever the reply holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from guild.skills.binary.auxiliary import TASKS
from guild.skills.binary.forms import FORMS
from guild.skills.contract import Sample, Verdict

RUBRICS = {
    "brief": "The result after the last = of the first line must equal the golden result; spaces do not count.",
    "verify": "The result after the last = of the first line (of the Outer: line, for a chain) must equal the golden result; spaces do not "
    "count.",
    "show-work": "The result after Result: must equal the golden result; spaces do not count.",
    "trace": "The result after Final:, up to its =, must equal the golden result; spaces do not count.",
    **dict.fromkeys(TASKS, "The text after Answer: must equal the golden answer; spaces do not count."),
}
_TAG = re.compile(r"^Compute(?: \[([a-z-]+)\])?:", re.MULTILINE)


def form_of(scenario: str | None, prompt: str) -> str:
    """The form: the scenario when it names one, else what the prompt's tag says; a prompt without a tag is brief."""
    if scenario in RUBRICS:
        return str(scenario)
    tagged = _TAG.search(prompt)
    return tagged[1] if tagged and tagged[1] in FORMS else "brief"


def judge(sample: Sample, reply: str) -> Verdict:
    """Judge a reply to the sample's prompt. Correct only when its result field equals that of the golden answer."""
    form = form_of(sample.scenario, sample.user_prompt)
    chain = form == "verify" and any(line.startswith("Outer:") for line in _lines(sample.assistant_response))
    golden, fault = result_field(sample.assistant_response, form, chain=chain)
    if golden is None:
        return Verdict(False, 0.0, f"the golden answer has no result: {fault}")
    found, fault = result_field(reply, form, chain=chain, cut="=" in _final_line(sample.assistant_response))
    if found is None:
        return Verdict(False, 0.0, fault)
    if found == golden:
        return Verdict(True, 1.0, "", found)
    return Verdict(False, matching_share(golden, found), f"expected {golden}, found {found[:200]}", found)


def result_field(text: str, form: str, *, chain: bool = False, cut: bool = True) -> tuple[str | None, str]:
    """(the result without spaces, ""), or (None, why there is none).

    chain: whether a verify reply has its result in the `Outer:` line. cut: whether a trace's `Final:` ends at its `=`.
    """
    lines = _lines(text)
    if form in ("show-work", "trace") or form in TASKS or chain:
        label = {"show-work": "Result:", "trace": "Final:", "verify": "Outer:"}.get(form, "Answer:")
        fields = {_field(line[len(label) :], form, cut) for line in lines if line.startswith(label)}
        if len(fields) > 1:
            return None, f"the reply has several different {label} lines"
        value = fields.pop() if fields else None
        return (value, "") if value else (None, f"the reply has no {label} line with a result")
    first = lines[0] if lines else ""
    before, equals, after = first.rpartition("=")
    if not equals or not after:
        return None, "the first line of the reply has no result after ="
    if ":" in before:  # a labelled line, such as a verification, is no result line
        return None, "the first line of the reply is no result line"
    return after, ""


def _field(rest: str, form: str, cut: bool) -> str:
    if form == "verify":
        opened = rest.rfind("(")
        if rest.endswith(")") and "=" in rest[opened:]:  # a remark in decimal behind the result
            rest = rest[:opened]
        return rest.rpartition("=")[2]
    return rest.partition("=")[0] if form == "trace" and cut else rest


def _lines(text: str) -> list[str]:
    """The lines that hold anything, without white space."""
    return [line for line in ("".join(raw.split()) for raw in text.split("\n")) if line]


def _final_line(text: str) -> str:
    return next((line for line in _lines(text) if line.startswith("Final:")), "")


def matching_share(golden: Sequence[str], found: Sequence[str]) -> float:
    """Share of positions, from the first, at which two texts agree; the longer text counts."""
    return sum(1 for one, other in zip(golden, found, strict=False) if one == other) / max(len(golden), len(found), 1)
