"""Asking a model in this process: greedy, in batches padded on the left, under the model's own chat template.

Torch and transformers are imported inside functions, when the first question is asked. (specs/guild.md 2.1.4, 2.2.1, 3.7)

What a reply says of its probabilities: the confidence is taken from the scores of the generation itself; the loss costs one forward pass
more, over prompt and golden answer, in batches like the questions.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from guild.errors import RefusedError
from guild.evaluation.answerers import MAX_NEW_TOKENS, Reply, confidence_of
from guild.training.profiles import get_profile
from modelwright.clock import SYSTEM_CLOCK, Clock

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 16
NO_PROFILE = "none"
_DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
_Made = TypeVar("_Made")


@dataclass
class LocalAnswerer:
    """A checkpoint folder, a hub id or `modelwright/tiny-*`, loaded when the first question is asked and kept until `close`.

    system_prompt: dated, holds the base prompt. profile: name of the data profile whose template rule and token processors are used.
    device: `cpu` or `cuda[:n]`. batch: questions at a time; halved when memory runs out. max_memory: bytes that weights and generation
    may take on the device, None for all there is. Raises LoadError, RefusedError when the weights alone are larger than max_memory.
    """

    model: str
    system_prompt: str
    profile: str = NO_PROFILE
    device: str = "cpu"
    batch: int = BATCH
    max_memory: int | None = None
    clock: Clock = SYSTEM_CLOCK
    template_note: str = ""
    _loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = field(default=None, repr=False)

    def load(self) -> None:
        """Load model and tokenizer now; nothing when they are."""
        if self._loaded is not None:
            return
        from guild.training.chat_template import apply_template
        from guild.training.quiet import quiet_libraries
        from modelwright.loading import load_model, load_tokenizer, resolve_model

        quiet_libraries()
        source = resolve_model(self.model)
        tokenizer = load_tokenizer(source)
        self.template_note = apply_template(tokenizer, get_profile(self.profile)).reason
        model = load_model(source, dtype=_DTYPES[self.device.partition(":")[0]], device="cpu")
        self._limit(model)
        model.to(self.device)
        model.config.use_cache = True
        self._loaded = (model, tokenizer)

    def answer(self, prompts: Sequence[str], *, max_new_tokens: int = MAX_NEW_TOKENS, golden: Sequence[str] | None = None) -> list[Reply]:
        """One reply for each prompt. A prompt that does not fit the model's context is answered by "", with a note: the model cannot do
        that problem. golden: a golden answer for each prompt; its loss is None where it does not fit behind the prompt."""
        self.load()
        texts = [self._rendered(prompt) for prompt in prompts]
        rows = [self._ids(text) for text in texts]
        room = self._context()
        fitting = [at for at, row in enumerate(rows) if len(row) < room]
        made = self._in_batches(
            fitting, rows, lambda taken: self._generate([rows[at] for at in taken], max_new_tokens, room, golden is not None)
        )
        unfit = {at: Reply("", 0.0, f"the prompt has {len(row)} tokens; the model's context is {room}") for at, row in enumerate(rows)}
        replies = [made.get(at, unfit[at]) for at in range(len(rows))]
        if golden is None:
            return replies
        losses = self._losses(texts, golden, room)
        return [replace(reply, loss=loss) for reply, loss in zip(replies, losses, strict=True)]

    def count(self, text: str) -> int:
        """How many tokens a text is for this model."""
        self.load()
        return len(self._ids(text))

    def close(self) -> None:
        """Give the model's memory back."""
        self._loaded = None
        _free()

    def _parts(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        assert self._loaded is not None
        return self._loaded

    def _rendered(self, prompt: str) -> str:
        messages = [{"role": "system", "content": self.system_prompt}, {"role": "user", "content": prompt}]
        return str(self._parts()[1].apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _ids(self, text: str) -> list[int]:
        return list(self._parts()[1](text, add_special_tokens=False).input_ids)

    def _in_batches(
        self, places: Sequence[int], rows: Sequence[Sequence[int]], work: Callable[[list[int]], list[_Made]]
    ) -> dict[int, _Made]:
        """What `work` makes of each place, in batches that are halved when memory runs out. rows: by whose length they go together, so that
        little is padded."""
        waiting = sorted(places, key=lambda at: len(rows[at]))
        made: dict[int, _Made] = {}
        while waiting:
            taken, waiting = waiting[: self.batch], waiting[self.batch :]
            try:
                made.update(zip(taken, work(taken), strict=True))
            except RuntimeError as error:
                if not _out_of_memory(error) or len(taken) == 1:
                    raise
                self.batch = max(1, len(taken) // 2)
                waiting = taken + waiting
                _free()
        return made

    def _context(self) -> int:
        return int(getattr(self._parts()[0].config, "max_position_embeddings", None) or 2**31)

    def _generate(self, rows: list[list[int]], max_new_tokens: int, room: int, scored: bool) -> list[Reply]:
        import torch

        from guild.evaluation.scoring import ChosenProbabilities

        model, tokenizer = self._parts()
        ends = self._ends()
        pad = self._pad()
        watch = [ChosenProbabilities()] if scored else []
        width = max(map(len, rows))
        limit = min(max_new_tokens, room - width)
        ids_BT = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=model.device)
        mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
        started = self.clock.monotonic()
        with torch.inference_mode():
            made_BT = model.generate(  # type: ignore[operator]
                ids_BT,
                attention_mask=mask_BT,
                max_new_tokens=limit,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                repetition_penalty=1.0,
                use_cache=True,
                logits_processor=[*watch, *get_profile(self.profile).build_logits_processors(tokenizer)],
                pad_token_id=pad,
                eos_token_id=ends,
            )
        share = (self.clock.monotonic() - started) / len(rows)
        logs = watch[0].finish(made_BT) if watch else None
        specials = set(tokenizer.all_special_ids)
        replies = []
        for at, new in enumerate(made_BT[:, width:].tolist()):
            stop = next((place for place, token in enumerate(new) if token in ends), None)
            answer = new[:stop]
            text = str(tokenizer.decode(answer, skip_special_tokens=True))
            told = None if logs is None else [log for token, log in zip(answer, logs[at], strict=False) if token not in specials]
            sure = None if told is None else confidence_of(told)
            replies.append(Reply(text, share, f"cut off after {limit} tokens" if stop is None else "", sure))
        return replies

    def _losses(self, texts: Sequence[str], golden: Sequence[str], room: int) -> list[float | None]:
        """Of each golden answer behind its rendered prompt; None for one that is empty, that does not fit, or whose scores are no
        numbers."""
        from guild.evaluation.scoring import answer_losses, rows_at_once

        model, _ = self._parts()
        pairs = [self._with_answer(text, answer) for text, answer in zip(texts, golden, strict=True)]
        rows = [row for row, _ in pairs]
        fitting = [at for at, (row, count) in enumerate(pairs) if 0 < count < len(row) <= room]
        longest = max((pairs[at][1] for at in fitting), default=0)
        most, vocabulary = self.batch, int(model.get_input_embeddings().weight.shape[0])

        def work(taken: list[int]) -> list[float]:
            size, made = rows_at_once(longest, vocabulary, most), []
            for begin in range(0, len(taken), size):
                part = taken[begin : begin + size]
                made += answer_losses(model, [rows[at] for at in part], [pairs[at][1] for at in part], self._pad())
            return made

        found = self._in_batches(fitting, rows, work)
        return [loss if (loss := found.get(at)) is not None and math.isfinite(loss) else None for at in range(len(texts))]

    def _with_answer(self, text: str, answer: str) -> tuple[list[int], int]:
        """(the tokens of prompt and answer, how many of them are the answer's), cut as in training: a token that begins in the prompt is
        the prompt's. 0 for a tokenizer that does not say where its tokens lie."""
        _, tokenizer = self._parts()
        if not tokenizer.is_fast:
            return self._ids(text + answer), 0
        encoded = tokenizer(text + answer, add_special_tokens=False, return_offsets_mapping=True)
        ids = list(encoded.input_ids)
        return ids, sum(begin >= len(text) for begin, _ in encoded.offset_mapping)

    def _pad(self) -> int:
        pad = self._parts()[1].pad_token_id
        return self._ends()[0] if pad is None else int(pad)

    def _ends(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's, the generation config's, and ChatML's end of turn."""
        model, tokenizer = self._parts()
        told: Any = getattr(model.generation_config, "eos_token_id", None)
        found = {*(told if isinstance(told, list) else [told]), tokenizer.eos_token_id, tokenizer.get_vocab().get("<|im_end|>")}
        ends = sorted(int(token) for token in found if token is not None)
        if not ends:
            raise RefusedError(f"{self.model}: found no token that ends an answer; allowed: a tokenizer with an eos_token.")
        return ends

    def _limit(self, model: PreTrainedModel) -> None:
        if self.max_memory is None:
            return
        import torch

        needed = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
        if needed > self.max_memory:
            raise RefusedError(
                f"--max-memory: found {self.max_memory / 1e9:.3g} GB; allowed: at least {needed / 1e9:.3g} GB, which the weights of "
                f"{self.model} take."
            )
        if self.device.startswith("cuda"):
            total = torch.cuda.get_device_properties(self.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, self.max_memory / total), self.device)


def _out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _free() -> None:
    import sys

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
