"""Editing YAML line by line: any way to write a settings file, and any file that hypothesis can think of."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from helpers.settings_file import FIRST, OPERATOR, UNSET, written
from macprovider.autotune.config_file.apply import ApplyError, Recommended, apply_recommendation
from modelwright.errors import ConfigError


def applied(tmp_path: Path, content: str | bytes, values: Recommended = FIRST) -> str:
    path = written(tmp_path, content)
    apply_recommendation(path, values)
    assert (
        yaml.safe_load(path.read_bytes()).items() >= {key: value for key, value in values.settings().items() if value is not None}.items()
    )
    return path.read_bytes().decode()


def test_sets_owned_keys_and_leaves_every_other_line(tmp_path: Path) -> None:
    assert applied(tmp_path, OPERATOR) == (
        OPERATOR.replace('"old/model"   # the fast', '"org/Model-7B-4bit"   # the fast').replace("kv_bits: 8  #", "kv_bits: 4  #")
        + "max_concurrency_override: 2\nmax_context_override: 4000\n"
    )


def test_unset_removes_the_line(tmp_path: Path) -> None:
    text = applied(tmp_path, OPERATOR, UNSET)
    assert "kv_bits: 8" not in text
    assert "  kv_bits: 3\n" in text, "a line of the text block went with it"
    assert "kv_bits" not in yaml.safe_load(text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "model: org/Model-7B-4bit\nkv_bits: 4\nmax_concurrency_override: 2\nmax_context_override: 4000\n"),
        ("# only words", "# only words\nmodel: org/Model-7B-4bit\nkv_bits: 4\nmax_concurrency_override: 2\nmax_context_override: 4000"),
        ("kv_bits: 4\nmax_concurrency_override: 2\nmax_context_override: 4000\nmodel:", None),
        ("kv_bits:   # later\nport: 1\n", None),
        ("'kv_bits' : 8 # q\n\"model\":  old\nport: 1", None),
        ("port: 1\r\nmodel: old\r\n# end\r\n", None),
        ("\ufeffmodel: old\nport: 1\n", None),
        ("\ufeffkv_bits: 3\n", None),
        ("%YAML 1.1\n---\nport: 1\n...\n", None),
        ("---\nport: 1\n... # the end\n", None),
        ("  port: 1\n  model: old\n", None),
        ("model: |\n  old\n  lines\n\n# comment\nport: 1\n", None),
        ("model:\n- a\n- b\n# about the port\nport: 1\n", None),
        ("model:\n  # why\n  old\nport: 1\n", None),
        ('model: "old\n  second" # c\nport: 1\n', None),
        ("model: {a: 1,\n  b: 2} # c\nport: 1\n", None),
        ("model:\n  a:\n    b: 1\n\n  # inner\n  c: 2\n# outer\nport: 1\n", None),
        ("a: &x 4\nkv_bits: *x # same\nport: *x\n", None),
        ("tail: |\n  no newline at the end", None),
        ("tail: |+\n  kept\n\n\n", None),
        ("base: &b {kv_bits: 8}\n<<: *b\nport: 1\n", None),
        ("kv_bits: true\nmax_concurrency_override: 2.0\nmax_context_override: '4000'\n", None),
        ("nan: .nan\nwhen: 2020-01-01\nport: 1\n", None),
    ],
)
def test_any_way_to_write_it(tmp_path: Path, before: str, after: str | None) -> None:
    text = applied(tmp_path, before)
    if after is not None:
        assert text == after
    assert [line for line in text.splitlines() if line in foreign_lines(before)] == foreign_lines(before)
    old, new = yaml.safe_load(before) or {}, yaml.safe_load(text)
    names = FIRST.settings()
    assert repr([(k, v) for k, v in new.items() if k not in names]) == repr([(k, v) for k, v in old.items() if k not in names])
    assert text.startswith("\ufeff") == before.startswith("\ufeff")
    if "\r\n" in before:
        assert "\n" not in text.replace("\r\n", "")
    path = tmp_path / "config.yaml"
    apply_recommendation(path, FIRST)
    assert path.read_bytes().decode() == text, "a second apply changed the file"


def foreign_lines(text: str) -> list[str]:
    """Some lines of entries and comments that are not ours."""
    return [line for line in text.splitlines() if re.match(r"(port|a:|#|tail|base|<<|nan|when|---|\.\.\.|%)", line)]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{model: old, port: 1}\n", "flow style"),
        ("{}\n", "flow style"),
        ("model: a\n---\nmodel: b\n", "another document"),
        ("model: a\nport: 1\nmodel: b\n", "lines 1 and 3"),
        ("? model\n: old\n", "`? key` form"),
        ("- model\n", "list"),
        ("just words\n", "str"),
        ("model: [open\n", "line 2"),
        ("port: 1\n\tmodel: x\n", "line 2"),
        ("a: !!python/object:os.system x\n", "valid"),
        ("when: 2020-13-45\n", "valid"),
        ("model: &m old\nother: *m\n", "alias"),
        (b"model: \xff\xfe\n", "UTF-8"),
        (b"model: a\x00b\n", "valid"),
        ("[" * 5000, "valid"),
    ],
)
def test_what_cannot_be_edited_is_refused_by_name_and_stays(tmp_path: Path, content: str | bytes, word: str) -> None:
    path = written(tmp_path, content)
    before = path.read_bytes()
    with pytest.raises(ApplyError, match=re.escape(word)) as caught:
        apply_recommendation(path, FIRST)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["config.yaml"], "a refused edit left something behind"


def test_merged_key_that_cannot_be_unset_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "base: &b {kv_bits: 8}\n<<: *b\n")
    with pytest.raises(ApplyError, match="merge"):
        apply_recommendation(path, UNSET)


def test_wrong_values_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_recommendation(tmp_path / "config.yaml", Recommended("a\nport: 9", 5, 0, True))  # type: ignore[arg-type]
    assert len(caught.value.faults) == 4
    assert not os.listdir(tmp_path)


ODD_NAMES = ("yes", "8", "a: b", "x #y", "'q'", 'd"q', "~", "2020-13-45", "...", "*star", "モデル/七", "a b", "1e3", "=", "C:\\m")


@pytest.mark.parametrize("model", ODD_NAMES)
@pytest.mark.parametrize("before", ["model: x\n", "model: 'x' # c\n", 'model: "x"\n', ""])
def test_any_model_name_reads_back(tmp_path: Path, model: str, before: str) -> None:
    text = applied(tmp_path, before, Recommended(model, 8, 1, 1))
    assert yaml.safe_load(text)["model"] == model


# --- any file

WORDS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=12)
PLAIN_KEYS = st.from_regex(r"[a-z_]{1,10}", fullmatch=True).filter(lambda key: key not in FIRST.settings())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99999) | st.floats(allow_nan=False, width=32) | WORDS | st.just("two\nlines\n"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*FIRST.settings(), "a", "b"]), inner, max_size=3),
    max_leaves=5,
)
COMMENTS = WORDS.map(lambda words: "# " + words.replace("\n", " "))


OWNED_VALUES = ("4", "8", "old/model", "'q'", '"dq"', "~", "", "[1, 2]", "|\n  a\n  b", "\n  - 4\n  - 5", ">-\n   folded")
RECOMMENDED = st.builds(
    Recommended,
    WORDS.filter(str.strip).filter(str.isprintable),
    st.sampled_from([4, 8, None]),
    st.integers(1, 99999),
    st.integers(1, 64),
)


@st.composite
def yaml_files(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A settings file and its foreign chunks, each one or more whole lines, in order."""
    newline = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    chunks: list[tuple[bool, str]] = []
    keys = draw(st.lists(PLAIN_KEYS, unique=True, max_size=4))
    for key in keys:
        style = draw(st.sampled_from([None, "'", '"', "|"]))
        flow, unicode = draw(st.booleans()), draw(st.booleans())
        text = yaml.safe_dump({key: draw(VALUES)}, allow_unicode=unicode, default_style=style, default_flow_style=flow)
        if text.startswith("{"):
            text = f"{key}: {text[1:].split(':', 1)[1].strip()[:-1]}\n" if text.count("\n") == 1 else f"{key}: 1\n"
        chunks.append((False, text))
    for key in draw(st.lists(st.sampled_from(list(FIRST.settings())), unique=True)):
        quoted = draw(st.sampled_from([key, f"'{key}'", f'"{key}"']))
        value = draw(st.sampled_from(OWNED_VALUES))
        comment = draw(st.sampled_from(["", "  # why"])) if "\n" not in value else ""
        chunks.append((True, f"{quoted}:{' ' if value and not value.startswith(chr(10)) else ''}{value}{comment}\n"))
    for comment in draw(st.lists(COMMENTS, max_size=3)):
        chunks.append((False, comment + "\n" * draw(st.integers(1, 3))))
    chunks = draw(st.permutations(chunks))
    head = draw(st.sampled_from(["", "", "---\n", "# top\n"]))
    text = (head + "".join(chunk for _, chunk in chunks)).replace("\n", newline)
    if draw(st.booleans()):
        text = text.removesuffix(newline)
    return text, [chunk.replace("\n", newline) for ours, chunk in chunks if not ours]


@given(file=yaml_files(), values=RECOMMENDED)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_foreign_lines_of_any_file_stay(tmp_path: Path, file: tuple[str, list[str]], values: Recommended) -> None:
    text, foreign = file
    try:
        old = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError):
        reject()  # the pieces do not always make a document; invalid ones are refused above
    for leftover in tmp_path.iterdir():
        leftover.unlink()
    path = written(tmp_path, text)
    done = apply_recommendation(path, values)
    new_text = path.read_bytes().decode()
    new = yaml.safe_load(new_text)
    assert done.backup and done.backup.read_bytes() == text.encode()
    names = values.settings()
    assert {key: value for key, value in new.items() if key in names} == {k: v for k, v in names.items() if v is not None}
    assert repr([(k, v) for k, v in new.items() if k not in names]) == repr([(k, v) for k, v in old.items() if k not in names])
    place = 0
    for number, chunk in enumerate(foreign):
        whole = chunk if number < len(foreign) - 1 else chunk.rstrip("\r\n")
        found = new_text.find(whole, place)
        assert found >= 0, f"{chunk!r} is gone from {new_text!r}"
        place = found + len(whole)
    second = apply_recommendation(path, values)
    assert path.read_bytes().decode() == new_text and second.changed == ()
    assert second.backup and second.backup.read_bytes() == path.read_bytes()
