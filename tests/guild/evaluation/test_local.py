"""The local answerer with the real tiny model. (specs/guild.md 2.1.4, 2.2.1, 3.7)"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from guild.errors import RefusedError
from guild.evaluation import local
from guild.evaluation.local import LocalAnswerer
from guild.evaluation.prompting import plain_prompt
from guild.training.profiles.base import Processor
from guild.training.profiles.none import NoProfile
from modelwright.errors import LoadError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TINY = "modelwright/tiny-0.4m"
PROMPT = plain_prompt(date(2026, 1, 1))
PROMPTS = ["Where is the cat?", "Hi", "Which number follows seven? " * 4, "Tell me about the old lamp and the river.", "Hi"]


def test_answers_do_not_depend_on_what_is_asked_beside_them() -> None:
    together = LocalAnswerer(TINY, PROMPT, batch=4).answer(PROMPTS, max_new_tokens=12)
    alone = LocalAnswerer(TINY, PROMPT, batch=1).answer(PROMPTS, max_new_tokens=12)
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert together[1].text == together[4].text
    assert any(reply.text for reply in together)


def test_an_answer_is_the_model_continuing_its_own_chat_template() -> None:
    import torch

    from modelwright.loading import load_model, load_tokenizer, resolve_model

    model, tokenizer = load_model(resolve_model(TINY)), load_tokenizer(resolve_model(TINY))
    messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": PROMPTS[0]}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
    new: list[int] = []
    with torch.no_grad():
        while len(new) < 12:  # greedy, without a cache
            token = int(model(torch.cat([ids, torch.tensor([new], dtype=ids.dtype)], dim=1)).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id or tokenizer.decode([token]) == "<|im_end|>":
                break
            new.append(token)
    (reply,) = LocalAnswerer(TINY, PROMPT).answer(PROMPTS[:1], max_new_tokens=12)
    assert reply.text == tokenizer.decode(new, skip_special_tokens=True)


def test_a_prompt_beyond_the_context_is_answered_by_nothing_with_a_note() -> None:
    long, short = LocalAnswerer(TINY, PROMPT).answer(["river " * 600, PROMPTS[3]], max_new_tokens=1)
    assert (long.text, short.note) == ("", "cut off after 1 tokens")
    assert "the model's context is 512" in long.note


@dataclass(frozen=True)
class Mute(NoProfile):
    """A profile under which every answer ends at once."""

    def build_logits_processors(self, tokenizer: PreTrainedTokenizerBase) -> list[Processor]:
        def end(ids: Any, scores: Any) -> Any:
            scores = scores.clone()
            scores[:, tokenizer.eos_token_id] = 1e9
            return scores

        return [end]


def test_the_profiles_token_processors_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [PROMPTS[3]]
    assert LocalAnswerer(TINY, PROMPT).answer(asked, max_new_tokens=8)[0].text
    monkeypatch.setattr(local, "get_profile", lambda name: Mute())
    assert LocalAnswerer(TINY, PROMPT).answer(asked, max_new_tokens=8)[0].text == ""


def test_memory_is_given_back_and_limits_and_names_are_checked() -> None:
    answerer = LocalAnswerer(TINY, PROMPT)
    assert answerer.answer([]) == []
    answerer.close()
    assert answerer.count("hello world") >= 2  # loaded again
    with pytest.raises(RefusedError, match=r"--max-memory: found 0\.001 GB; allowed: at least 0\.00"):
        LocalAnswerer(TINY, PROMPT, max_memory=1_000_000).load()
    with pytest.raises(LoadError):
        LocalAnswerer("modelwright/tiny-9g", PROMPT).answer(["Hi"])
