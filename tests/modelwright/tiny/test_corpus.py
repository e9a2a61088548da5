"""The corpus: split by file, without machine-dependent files, the same every time."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelwright.tiny.corpus import is_held_out, load_corpus


def test_the_split_is_by_file_and_the_digest_follows_the_content(small_library: Path, tmp_path: Path) -> None:
    first, second = load_corpus(small_library), load_corpus(small_library)
    assert first == second
    assert {file.path for file in first.train}.isdisjoint(file.path for file in first.held_out)
    assert all(is_held_out(file.path) for file in first.held_out)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (*first.train, *first.held_out):
        (copy / file.path).write_text(file.text, encoding="utf-8")
    assert load_corpus(copy).digest == first.digest
    changed = first.train[0]
    (copy / changed.path).write_text(changed.text + "# one more line\n", encoding="utf-8")
    assert load_corpus(copy).digest != first.digest


def test_the_real_library_is_large_and_free_of_machine_files() -> None:
    corpus = load_corpus()
    paths = [file.path for file in (*corpus.train, *corpus.held_out)]
    assert corpus.train_bytes > 5_000_000
    assert corpus.held_out_bytes > 100_000
    assert not [path for path in paths if "_sysconfigdata" in path or "site-packages" in path or "/test" in path]


def test_a_folder_without_source_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="0 Python source files"):
        load_corpus(tmp_path)
