from __future__ import annotations

from array import array
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.data.encoding import IGNORED, EncodedDocument
from modelwright.data.packing import length_histogram, long_windows, pack
from modelwright.data.records import Shape
from modelwright.errors import LoadError

PAD = 0


def document(length: int, first: int = 1, shape: Shape = "text", learn_from: int = 0) -> EncodedDocument:
    ids = array("i", range(first, first + length))
    return EncodedDocument(ids, array("i", [IGNORED] * min(learn_from, length)) + ids[learn_from:], shape, "x")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 90), min_size=1, max_size=40), st.integers(8, 64), st.integers(0, 3))
def test_every_token_of_text_comes_once_and_labels_stay_inside(lengths: list[int], window: int, seed: int) -> None:
    first, documents = 1, []
    for length in lengths:
        documents.append(document(length, first))
        first += length
    packed = pack(documents, window, pad_id=PAD, seed=seed)
    seen: Counter[int] = Counter()
    for row in packed.windows:
        assert len(row.input_ids) == len(row.labels) == len(row.position_ids) == window
        begin = 0
        for size in row.pieces:
            ids = list(row.input_ids[begin : begin + size])
            assert ids == list(range(ids[0], ids[0] + size))  # consecutive: never two documents in one piece
            assert list(row.position_ids[begin : begin + size]) == list(range(size))
            assert row.labels[begin] == IGNORED
            assert list(row.labels[begin + 1 : begin + size]) == ids[1:]
            seen.update(ids)
            begin += size
        assert set(row.labels[begin:]) <= {IGNORED} and set(row.input_ids[begin:]) <= {PAD}
        assert list(row.position_ids[begin:]) == list(range(window - begin))
    assert set(seen.values()) <= {1}
    # Only a single left-over token of a cut document may be missing: it has nothing to predict.
    assert len(seen) >= sum(lengths) - sum(length % window == 1 for length in lengths)
    assert packed.report.tokens == len(seen)
    assert packed.report.efficiency == pytest.approx(len(seen) / (len(packed) * window))


def test_deterministic_by_seed() -> None:
    documents = [document(5 + i % 13, 100 * i) for i in range(60)]
    one, same, other = (pack(documents, 32, pad_id=PAD, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert [w.input_ids for w in one.windows] != [w.input_ids for w in other.windows]


def test_best_fit_fills_well() -> None:
    documents = [document(length) for length in (20, 12, 30, 2, 16, 16, 25, 7)]
    report = pack(documents, 32, pad_id=PAD, seed=0).report
    assert (report.windows, report.efficiency) == (4, 1.0)


def test_chat_is_cut_at_the_end_and_left_out_without_an_answer() -> None:
    reaches = document(40, shape="messages", learn_from=10)
    too_late = document(40, shape="messages", learn_from=35)
    report = pack([reaches, too_late], 32, pad_id=PAD, seed=0).report
    assert (report.windows, report.truncated_documents, report.dropped_documents, report.tokens) == (1, 2, 1, 32)
    assert report.loss_share == pytest.approx(22 / 32)
    with pytest.raises(LoadError, match="of 1 documents none has an answer token inside 32 tokens"):
        pack([too_late], 32, pad_id=PAD, seed=0)


def test_native_share_gives_short_pieces_in_long_windows() -> None:
    documents = [document(1000, 1000 * i) for i in range(20)]
    packed = pack(documents, 512, pad_id=PAD, seed=0, native_length=128, native_share=0.2)
    sizes = [size for window in packed.windows for size in window.pieces]
    assert packed.report.native_share == pytest.approx(sum(s for s in sizes if s <= 128) / sum(sizes))
    assert 0.2 <= packed.report.native_share < 0.35
    assert max(sizes) == 512
    none = pack(documents, 512, pad_id=PAD, seed=0, native_length=128)
    assert none.report.native_share < 0.01


def test_native_share_never_cuts_a_chat() -> None:
    documents = [document(100, shape="messages", learn_from=90) for _ in range(10)]
    report = pack(documents, 128, pad_id=PAD, seed=0, native_length=64, native_share=0.5).report
    assert (report.dropped_documents, report.native_share) == (0, 0.0)


def test_joining_is_only_on_request() -> None:
    documents = [document(10, 10 * i) for i in range(8)]
    apart = pack(documents, 40, pad_id=PAD, seed=0)
    joined = pack(documents, 40, pad_id=PAD, seed=0, join_text=True)
    assert {w.pieces for w in apart.windows} == {(10, 10, 10, 10)}
    assert {w.pieces for w in joined.windows} == {(40,)}


def test_long_windows_are_full_and_consecutive() -> None:
    packed = long_windows([document(100, 1), document(30, 500)], 32, pad_id=PAD, seed=3)
    assert sorted(window.input_ids[0] for window in packed.windows) == [1, 33, 65]
    assert all(window.pieces == (32,) for window in packed.windows)
    with pytest.raises(LoadError, match="longest of 1 documents has 30"):
        long_windows([document(30)], 32, pad_id=PAD, seed=3)
    assert len(long_windows([document(30), document(30)], 32, pad_id=PAD, seed=3, join_text=True)) == 1


def test_drop_below_and_histogram() -> None:
    documents = [document(32), document(3)]
    assert len(pack(documents, 32, pad_id=PAD, seed=0)) == 2
    assert len(pack(documents, 32, pad_id=PAD, seed=0, drop_below=0.5)) == 1
    assert length_histogram([1, 2, 3, 64, 65, 128]) == {"<=1": 1, "<=2": 1, "<=4": 1, "<=64": 1, "<=128": 2}


@pytest.mark.parametrize("wrong", [{"length": 1}, {"native_share": 0.2}, {"native_share": 2.0, "native_length": 4}, {"native_length": 64}])
def test_bad_numbers(wrong: dict[str, float]) -> None:
    arguments: dict[str, object] = {"length": 32, **wrong}
    with pytest.raises(ValueError):
        pack([document(8)], pad_id=PAD, seed=0, **arguments)  # type: ignore[arg-type]
