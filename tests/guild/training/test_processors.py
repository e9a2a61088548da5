"""What happens to scores while a profile's model generates."""

from __future__ import annotations

import torch
from transformers import LogitsProcessorList

from guild.training.processors import StopEmojiHandling, ThinkTagPenalty
from guild.training.profiles import get_profile
from helpers.guild_tokenizers import tiny_tokenizer


def test_the_think_penalty_follows_its_schedule_and_begins_anew() -> None:
    processor = ThinkTagPenalty([3])
    for _ in range(2):
        seen = []
        for length in range(10, 24):
            scores = processor(torch.zeros(2, length, dtype=torch.long), torch.zeros(2, 8))
            assert scores[:, [0, 1, 2, 4, 5, 6, 7]].abs().max() == 0
            seen.append(-float(scores[1, 3]))
        assert seen == [640.0] * 4 + [160.0] * 4 + [120.0] * 4 + [80.0] * 2


def test_think_tokens_are_found_in_the_vocabulary() -> None:
    tokenizer = tiny_tokenizer()
    assert ThinkTagPenalty.of(tokenizer).tokens == []
    tokenizer.add_tokens(["<think>", "</think>", "thinker"])
    vocabulary = tokenizer.get_vocab()
    assert ThinkTagPenalty.of(tokenizer).tokens == sorted([vocabulary["<think>"], vocabulary["</think>"]])


def _scores(prompt: str, answers: list[str]) -> list[tuple[float, float]]:
    """(change of an ordinary token, change of the end) after each answer, each longer than the one before."""
    tokenizer = tiny_tokenizer()
    processor = StopEmojiHandling.of(tokenizer)
    asked = tokenizer(prompt)["input_ids"]
    processor(torch.tensor([asked]), torch.zeros(1, len(tokenizer)))
    seen = []
    for answer in answers:
        ids = asked + tokenizer(answer)["input_ids"]
        scores = processor(torch.tensor([ids]), torch.zeros(1, len(tokenizer)))
        seen.append((float(scores[0, 40]), float(scores[0, tokenizer.eos_token_id])))
    return seen


def test_behind_the_complete_stop_only_the_end_of_turn_is_left() -> None:
    prompt = "Hi\nWhen finished, emit 🛑 /three times/ to signal completion."
    assert _scores(prompt, ["ok", "ok🛑🛑", "ok🛑🛑🛑", "ok🛑🛑🛑x", "ok🛑🛑🛑xx"]) == [
        (0.0, 0.0),
        (0.0, 0.0),
        (-100.0, 50.0),
        (-1000.0, 50.0),
        (-10000.0, 50.0),
    ]


def test_without_a_request_two_of_one_stop_emoji_complete_an_answer() -> None:
    assert _scores("Hi", ["ok🛑🚫", "ok🛑🚫🚫"]) == [(0.0, 0.0), (-100.0, 50.0)]


def test_penalties_stay_finite_however_long_the_answer_goes_on() -> None:
    ((ordinary, _),) = _scores("Hi", ["🛑🛑" + "x" * 200])
    assert torch.isfinite(torch.tensor(ordinary))


def test_rows_of_a_batch_are_handled_apart() -> None:
    tokenizer = tiny_tokenizer()
    processor = StopEmojiHandling.of(tokenizer)
    prompt, done = tokenizer("Hi")["input_ids"], tokenizer("🛑🛑")["input_ids"]
    other = tokenizer("a long answer without any mark")["input_ids"][: len(done)]
    assert len(other) == len(done)
    processor(torch.tensor([prompt, prompt]), torch.zeros(2, len(tokenizer)))
    scores = processor(torch.tensor([prompt + done, prompt + other]), torch.zeros(2, len(tokenizer)))
    assert float(scores[0, 40]) == -100.0
    assert scores[1].abs().max() == 0


def test_generate_takes_the_processors_of_emoji_think_and_ends_behind_the_stop() -> None:
    from transformers import AutoModelForCausalLM

    from modelwright.tiny import tiny_model_path

    tokenizer = tiny_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path("modelwright/tiny-0.4m"))
    text = "<|im_start|>user\nWhen finished, emit 🛑 /twice/ to signal completion.<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    stop = tokenizer("🛑🛑")["input_ids"]
    ends = len(ids[0]) + len(stop)

    class WriteTheStop:
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            at = input_ids.shape[1] - len(ids[0])
            if at < len(stop):
                scores = torch.full_like(scores, -1e9)
                scores[:, stop[at]] = 0.0
            return scores

    processors = LogitsProcessorList([WriteTheStop(), *get_profile("emoji_think").build_logits_processors(tokenizer)])
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(stop) + 6, do_sample=False, logits_processor=processors
    )
    assert made.shape[1] == ends + 1
    assert int(made[0, -1]) == tokenizer.eos_token_id
    assert get_profile("none").build_logits_processors(tokenizer) == []
