from __future__ import annotations

import pytest

from modelwright.data.references import parse_reference
from modelwright.errors import UsageError


def test_local_scheme_is_stripped_as_text() -> None:
    reference = parse_reference("local://data/instruction.jsonl")
    assert (reference.scheme, reference.identifier) == ("local", "data/instruction.jsonl")


@pytest.mark.parametrize("path", ["/abs/x.csv", "../up/x.txt", "a b/ü.jsonl", "~/x.json", "C:/x.csv"])
def test_local_paths_pass_through(path: str) -> None:
    assert parse_reference(f"local://{path}").identifier == path


def test_local_options() -> None:
    reference = parse_reference("local://d/x.parquet?split=train&text_field=body%20text")
    assert (reference.identifier, reference.split, reference.text_field) == ("d/x.parquet", "train", "body text")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("hf://owner/name", ("owner/name", None, None, "train")),
        ("hf://owner/name@v1.2", ("owner/name", "v1.2", None, "train")),
        ("hf://owner/name/en", ("owner/name", None, "en", "train")),
        ("hf://owner/na.me@abc/en-us?split=test", ("owner/na.me", "abc", "en-us", "test")),
    ],
)
def test_hub_grammar(uri: str, expected: tuple[str, str | None, str | None, str]) -> None:
    reference = parse_reference(uri)
    assert (reference.identifier, reference.revision, reference.config, reference.split) == expected


def test_synthetic_defaults_and_options() -> None:
    assert (parse_reference("synthetic://mixed").n, parse_reference("synthetic://mixed").seed) == (256, 42)
    reference = parse_reference("synthetic://code?n=7&seed=0")
    assert (reference.identifier, reference.n, reference.seed) == ("code", 7, 0)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("s3://bucket/x", "hf://, local:// and synthetic://"),
        ("data/x.jsonl", "without a scheme"),
        ("local://", "names nothing"),
        ("local://x.jsonl?txt_field=a", "did you mean text_field"),
        ("local://x.jsonl?n=3", "split and text_field"),
        ("hf://name-without-owner", "hf://owner/name"),
        ("hf://a/b/c/d", "hf://owner/name"),
        ("synthetic://poems", "longform, retrieval_qa, code, mixed"),
        ("synthetic://mixed?n=0", "at least 1"),
        ("synthetic://mixed?seed=-1", "at least 0"),
        ("synthetic://mixed?n=", "no value"),
    ],
)
def test_faults_say_what_is_allowed(uri: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(uri)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2
