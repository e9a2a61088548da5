"""Streams equal whole texts, wherever tokens begin and end; special tokens are found and stripped."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.script_model import save_script_model
from macprovider.codec import FALLBACK_SPECIALS, Codec, StopText, TemplateError, special_texts
from modelwright.tiny import tiny_model_path


@cache
def tiny() -> Codec:
    return Codec.load(tiny_model_path("tiny-0.4m"), "tiny")


@cache
def metaspace() -> Codec:
    """A SentencePiece-like tokenizer: spaces as `▁`, unknown characters as bytes, the first space stripped."""
    from tempfile import mkdtemp

    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghijklmnopqrstuvwxyz", "▁t", "he", "▁the"]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he")]
    model = models.BPE(
        vocab={piece: index for index, piece in enumerate(pieces)}, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    folder = Path(mkdtemp())
    wrapped.save_pretrained(folder)
    (folder / "config.json").write_text("{}")
    return Codec.load(folder, "metaspace")


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_a_streamed_text_is_the_whole_text(text: str) -> None:
    codec = tiny()
    detokeniser = codec.detokeniser()
    ids = [index for index in codec.encode(text) if index not in codec.specials]
    parts = [detokeniser.push([index]) for index in ids]
    assert "".join(parts) + detokeniser.finish() == codec.decode(ids)
    assert "\ufffd" in text or not any("\ufffd" in part for part in parts)


@given(st.text(alphabet=" abthez\n🙂é漢", max_size=40))
@settings(max_examples=150, deadline=None)
def test_the_same_for_tokens_whose_text_depends_on_their_neighbours(text: str) -> None:
    codec = metaspace()
    detokeniser = codec.detokeniser()
    ids = codec.encode(text)
    parts = [detokeniser.push([index]) for index in ids]
    assert "".join(parts) + detokeniser.finish() == codec.decode(ids)
    assert not any("\ufffd" in part for part in parts)


@given(st.lists(st.integers(4, 1023), max_size=30), st.lists(st.integers(0, 30)))
@settings(max_examples=200, deadline=None)
def test_even_for_tokens_that_are_no_text_at_all(ids: list[int], cuts: list[int]) -> None:
    """Of byte tokens: a byte-fallback decoder's replacement signs depend on bytes yet to come."""
    codec = tiny()
    detokeniser = codec.detokeniser()
    ids = [index for index in ids if index not in codec.specials]
    borders = sorted({0, len(ids), *(cut for cut in cuts if cut < len(ids))})
    text = "".join(detokeniser.push(ids[a:b]) for a, b in pairwise(borders)) + detokeniser.finish()
    assert text == codec.decode(ids)


def first_stop(text: str, stops: list[str]) -> str:
    """The rule in its slowest form: character by character, the first stop that is complete, the longest of those."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


@given(
    st.text(alphabet="abc", max_size=30),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=5), min_size=1, max_size=4),
    st.lists(st.integers(0, 30)),
)
@settings(max_examples=500, deadline=None)
def test_stops_do_not_see_where_tokens_end(text: str, stops: list[str], cuts: list[int]) -> None:
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    matcher = StopText(stops)
    parts = [matcher.push(text[a:b]) for a, b in pairwise(borders)]
    if not matcher.stopped:
        parts.append(matcher.finish())
    assert "".join(parts) == first_stop(text, stops)
    assert matcher.stopped == any(stop in text for stop in stops)


def test_text_is_held_back_only_while_a_stop_may_begin() -> None:
    matcher = StopText(["STOP", "\n\n"])
    assert [matcher.push(part) for part in ("one ST", "ART", "\n", "x", "STO")] == ["one ", "START", "", "\nx", ""]
    assert matcher.finish() == "STO"


def test_special_tokens_are_read_from_the_models_files(tmp_path: Path) -> None:
    assert special_texts(tiny_model_path("tiny-5m")) == ("<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|pad|>")
    assert special_texts(tmp_path) == tuple(sorted(FALLBACK_SPECIALS))
    decoder = {
        "5": {"content": "<|eot_id|>", "special": True},
        "6": {"content": "<tool_call>", "special": False},
        "7": {"content": " ", "special": True},
    }
    config = {"eos_token": {"content": "</s>"}, "bos_token": "<s>", "added_tokens_decoder": decoder, "pad_token": "!"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert special_texts(tmp_path) == ("</s>", "<s>", "<|eot_id|>")


def test_stop_ids_come_from_every_file_that_names_them(tmp_path: Path) -> None:
    folder = save_script_model(tmp_path, {"h": ["x1"]}, special=["<|eot_id|>", "<|other|>"])
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**generation, "eos_token_id": [5, 6]}))
    codec = Codec.load(folder, "m")
    ids = {text: codec.encode(text)[0] for text in ("<|im_end|>", "<|eot_id|>", "<|other|>")}
    assert codec.stop_ids == {5, 6, ids["<|im_end|>"], ids["<|eot_id|>"], codec.encode("<|endoftext|>")[0]}
    detokeniser = codec.detokeniser()
    assert detokeniser.push([*ids.values(), *codec.encode("ok")]) == "ok"
    assert codec.detokeniser(keep=["<|other|>"]).push(list(ids.values())) == "<|other|>"


def test_a_template_that_refuses_is_told_in_its_own_words(tmp_path: Path) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    codec = Codec.load(save_script_model(tmp_path, {"h": ["x1"]}, template=template), "m")
    with pytest.raises(TemplateError, match="roles must alternate"):
        codec.render([{"role": "user", "content": "x"}])
    assert not codec.template_shows_tools and codec.has_template


def test_token_bytes_join_to_the_text() -> None:
    for codec in (tiny(), metaspace()):
        ids = codec.encode("the 🙂 hat")
        assert b"".join(codec.token_bytes(index) for index in ids).decode().strip() == "the 🙂 hat"
        assert codec.token_bytes(10**9) == b""
