"""Asking a model in this process: greedy, in batches padded on the left, under the model's own chat template.

Torch and transformers are imported inside functions, when the first question is asked. (specs/guild.md 2.1.4, 2.2.1, 3.7)
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from guild.errors import RefusedError
from guild.evaluation.answerers import MAX_NEW_TOKENS, Reply
from guild.training.profiles import get_profile
from modelwright.clock import SYSTEM_CLOCK, Clock

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 16
NO_PROFILE = "none"
_DTYPES = {"cpu": "float32", "cuda": "bfloat16"}


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

    def answer(self, prompts: Sequence[str], *, max_new_tokens: int = MAX_NEW_TOKENS) -> list[Reply]:
        """One reply for each prompt. A prompt that does not fit the model's context is answered by "", with a note: the model cannot do
        that problem."""
        self.load()
        rows = [self._tokens(prompt) for prompt in prompts]
        room = self._context()
        replies: dict[int, Reply] = {}
        fitting = []
        for at, row in enumerate(rows):
            if len(row) >= room:
                replies[at] = Reply("", 0.0, f"the prompt has {len(row)} tokens; the model's context is {room}")
            else:
                fitting.append(at)
        fitting.sort(key=lambda at: len(rows[at]))  # of like length together, so that little is padded
        while fitting:
            taken, fitting = fitting[: self.batch], fitting[self.batch :]
            try:
                made = self._generate([rows[at] for at in taken], max_new_tokens, room)
            except RuntimeError as error:
                if not _out_of_memory(error) or len(taken) == 1:
                    raise
                self.batch = max(1, len(taken) // 2)
                fitting = taken + fitting
                _free()
                continue
            replies.update(zip(taken, made, strict=True))
        return [replies[at] for at in range(len(rows))]

    def count(self, text: str) -> int:
        """How many tokens a text is for this model."""
        self.load()
        return len(self._parts()[1](text, add_special_tokens=False).input_ids)

    def close(self) -> None:
        """Give the model's memory back."""
        self._loaded = None
        _free()

    def _parts(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        assert self._loaded is not None
        return self._loaded

    def _tokens(self, prompt: str) -> list[int]:
        _, tokenizer = self._parts()
        messages = [{"role": "system", "content": self.system_prompt}, {"role": "user", "content": prompt}]
        text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    def _context(self) -> int:
        return int(getattr(self._parts()[0].config, "max_position_embeddings", None) or 2**31)

    def _generate(self, rows: list[list[int]], max_new_tokens: int, room: int) -> list[Reply]:
        import torch

        model, tokenizer = self._parts()
        ends = self._ends()
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
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
                logits_processor=get_profile(self.profile).build_logits_processors(tokenizer),
                pad_token_id=pad,
                eos_token_id=ends,
            )
        share = (self.clock.monotonic() - started) / len(rows)
        replies = []
        for new in made_BT[:, width:].tolist():
            stop = next((at for at, token in enumerate(new) if token in ends), None)
            text = str(tokenizer.decode(new if stop is None else new[:stop], skip_special_tokens=True))
            replies.append(Reply(text, share, f"cut off after {limit} tokens" if stop is None else ""))
        return replies

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
