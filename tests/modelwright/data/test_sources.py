from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelwright.data.records import Message
from modelwright.data.references import parse_reference
from modelwright.data.sources import fingerprint, iterate_records, load_records
from modelwright.errors import LoadError


def _write_lines(path: Path, rows: list[object]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"local://{path}"


def test_relative_path_is_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_lines(tmp_path / "data" / "instruction.jsonl", [{"instruction": "Add", "input": "1 2", "output": "5"}])
    monkeypatch.chdir(tmp_path)
    (record,) = load_records(parse_reference("local://data/instruction.jsonl"))
    assert (record.shape, record.prompt, record.completion) == ("instruction", "Add\n\n1 2", "5")


def test_all_shapes(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
    (record,) = load_records(parse_reference(_write_lines(tmp_path / "a.jsonl", [chat])))
    assert record.messages == (Message("user", "Hi"), Message("assistant", "Ho"))
    (record,) = load_records(parse_reference(_write_lines(tmp_path / "b.jsonl", [{"prompt": "2+2=", "completion": "4"}])))
    assert (record.shape, record.prompt, record.completion) == ("completion", "2+2=", "4")
    (record,) = load_records(parse_reference(_write_lines(tmp_path / "c.jsonl", [{"text": "plain", "id": 4}])))
    assert (record.shape, record.text) == ("text", "plain")


def test_same_rows_from_every_format(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    rows = [{"prompt": 'a, "quoted"\nline', "completion": "ü"}, {"prompt": "b", "completion": ""}]
    _write_lines(tmp_path / "x.jsonl", list(rows))
    (tmp_path / "x.json").write_text(json.dumps(rows))
    (tmp_path / "y.json").write_text(json.dumps({"data": rows}))
    (tmp_path / "x.csv").write_text('prompt,completion\n"a, ""quoted""\nline",ü\nb,\n', encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    for name in ("x.jsonl", "x.json", "y.json", "x.csv", "x.parquet"):
        records = load_records(parse_reference(f"local://{tmp_path / name}"))
        assert [(r.prompt, r.completion) for r in records] == [(r["prompt"], r["completion"]) for r in rows], name


def test_folder_is_read_recursively_sorted_and_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", ".git/x.txt", "a/.hidden.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "notes.bin").write_bytes(b"\x00")
    assert [record.text for record in load_records(parse_reference(f"local://{tmp_path}"))] == ["a/z.txt", "b.txt"]


def test_split_and_text_field(tmp_path: Path) -> None:
    _write_lines(tmp_path / "train-0.jsonl", [{"body": "one"}])
    _write_lines(tmp_path / "test" / "part.jsonl", [{"body": "two"}])
    read = [r.text for r in load_records(parse_reference(f"local://{tmp_path}?split=train&text_field=body"))]
    assert read == ["one"]
    assert [r.text for r in load_records(parse_reference(f"local://{tmp_path}?split=test&text_field=body"))] == ["two"]


def test_long_csv_cell(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text\n" + "w" * 300_000 + "\n")
    assert len(load_records(parse_reference(f"local://{tmp_path / 'x.csv'}"))[0].text) == 300_000


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "mixed.jsonl",
            '{"text": "a"}\n\n{"prompt": "b", "completion": "c"}\n',
            "mixed.jsonl:3: found a row of shape 'completion'",
        ),
        ("unknown.jsonl", '{"text": "a"}\n{"question": "b"}\n', "unknown.jsonl:2: found the fields question"),
        ("torn.jsonl", '{"text": "a"}\n{"text": "b', "torn.jsonl:2: not valid JSON"),
        ("list.jsonl", "[1]\n", "list.jsonl:1: found a list"),
        ("number.jsonl", '{"text": 5}\n', "number.jsonl:1: the field 'text' holds a int"),
        ("role.jsonl", '{"messages": [{"role": "boss", "content": "x"}]}\n', "role.jsonl:1: message 1"),
        ("empty.jsonl", "\n\n", "no records after parsing"),
        ("empty.txt", "  \n", "no records after parsing"),
        ("short.csv", "prompt,completion\na\n", "short.csv:2"),
        ("object.json", '{"text": "x"}', "a list of rows"),
        ("latin.txt", b"caf\xe9", "not UTF-8"),
        ("x.parquet", b"not parquet", "not a readable parquet file"),
        ("x.xml", "<a/>", "the suffix .xml"),
    ],
)
def test_faults_name_the_place(tmp_path: Path, name: str, content: str | bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LoadError) as caught:
        load_records(parse_reference(f"local://{tmp_path / name}"))
    assert says in str(caught.value)
    assert caught.value.exit_code == 5


def test_missing_file_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="does not exist"):
        load_records(parse_reference(f"local://{tmp_path}/nothing.jsonl"))
    with pytest.raises(LoadError, match="holds no data file"):
        load_records(parse_reference(f"local://{tmp_path}"))


def test_rows_before_the_bad_one_are_delivered_lazily(tmp_path: Path) -> None:
    uri = _write_lines(tmp_path / "x.jsonl", [{"text": "a"}, {"text": "b"}, {"nope": 1}])
    rows = iterate_records(parse_reference(uri))
    assert [next(rows).text, next(rows).text] == ["a", "b"]
    assert len(load_records(parse_reference(uri), limit=2)) == 2
    with pytest.raises(LoadError):
        next(rows)


def test_hub_offline_never_touches_the_network_and_says_what_to_do(tmp_path: Path) -> None:
    """In a process of its own: the libraries read their caches and switches once, at import."""
    pytest.importorskip("datasets")
    program = (
        "import os, socket\n"
        "def refuse(*a, **k): print('network was used', flush=True); os._exit(1)\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from modelwright.data.references import parse_reference\n"
        "from modelwright.data.sources import load_records\n"
        "try: load_records(parse_reference('hf://nobody-here/no-such-dataset'), offline=True)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "import datasets, huggingface_hub.constants as constants\n"
        "print(datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE)\n"
    )
    environment = {"HF_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert "LoadError The dataset hf://nobody-here/no-such-dataset could not be loaded: offline mode is on" in run.stdout
    assert "use local://" in run.stdout
    assert run.stdout.endswith("False False\n")  # the switches are back as they were


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    uri = _write_lines(tmp_path / "x.jsonl", [{"text": "a"}])
    first = fingerprint(parse_reference(uri))
    moved = _write_lines(tmp_path / "elsewhere" / "y.jsonl", [{"text": "a"}])
    assert fingerprint(parse_reference(moved)) == first
    _write_lines(tmp_path / "x.jsonl", [{"text": "b"}])
    assert fingerprint(parse_reference(uri)) != first
    one, other = (fingerprint(parse_reference(f"synthetic://code?n=3&seed={seed}")) for seed in (1, 2))
    assert one != other and one == fingerprint(parse_reference("synthetic://code?seed=1&n=3"))
