"""Answers in JSON of a schema, from a model that would never write any."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import torch

from helpers.engine_listener import GREEDY, ask, engine_settings
from macprovider.engines.base import EngineError, GenerationRequest, Sampling, Token
from macprovider.engines.embedded.engine import TransformersEngine
from macprovider.engines.embedded.grammar import Grammars
from macprovider.engines.embedded.sampling import choose, draw_for
from modelwright.loading import load_tokenizer, resolve_tokenizer
from modelwright.tiny import tiny_model_path

FOLDER = Path(tiny_model_path("modelwright/tiny-0.4m"))
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine() -> Iterator[TransformersEngine]:
    made = TransformersEngine(engine_settings(FOLDER, max_batch=3))
    assert "json_schema" in made.load().features
    yield made
    made.close()


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_text_is_json_of_the_schema(engine: TransformersEngine, temperature: float) -> None:
    tokenizer = load_tokenizer(resolve_tokenizer(str(FOLDER)))
    prompt = tokenizer("def main():\n    return ")["input_ids"]
    free = ask(engine, prompt, 40)
    answers = [ask(engine, prompt, 150, Sampling(temperature=temperature, seed=seed), json_schema=json.dumps(SCHEMA)) for seed in range(3)]
    for answer in answers:
        assert answer.wait().reason == "stop", answer.error
        jsonschema.validate(json.loads(tokenizer.decode(answer.ids)), SCHEMA)
    with pytest.raises(json.JSONDecodeError):
        json.loads(tokenizer.decode(free.wait().ids))


@pytest.mark.parametrize(
    ("schema", "word"),
    [("{not json", "not JSON"), ('{"type": "nothing"}', "cannot be used"), ('{"not": {"type": "string"}}', "cannot be used")],
)
def test_a_schema_that_cannot_be_used_is_refused_at_once(engine: TransformersEngine, schema: str, word: str) -> None:
    with pytest.raises(EngineError, match=word):
        ask(engine, [5, 6], 10, json_schema=schema)


def test_a_grammar_that_has_failed_ends_its_own_answer_alone() -> None:
    tokenizer = load_tokenizer(resolve_tokenizer(str(FOLDER)))
    grammar = Grammars(FOLDER, len(tokenizer), [tokenizer.eos_token_id]).compile('{"type": "object"}')
    with pytest.raises(EngineError, match="JSON schema"):
        grammar.take(tokenizer.convert_tokens_to_ids("]"))
    draws = [draw_for(GenerationRequest([1], 9, GREEDY), grammar), draw_for(GenerationRequest([1], 9, GREEDY))]
    assert choose(torch.eye(2, len(tokenizer)), draws) == [None, Token(1)]
    assert "JSON schema" in draws[0].fault and not draws[1].fault


def test_a_grammar_that_outgrows_its_parser_ends_its_answer_in_words(engine: TransformersEngine) -> None:
    """Three thousand optional properties pass the first token; what may follow the brace is beyond the parser's limit."""
    wide = json.dumps({"type": "object", "properties": {f"v{index}": {"type": "string"} for index in range(3000)}})
    failed = ask(engine, [8, 9], 20, json_schema=wide).wait()
    assert failed.reason == "refused" and "JSON schema" in failed.error
    assert ask(engine, [8, 9], 4).wait().reason == "length"
