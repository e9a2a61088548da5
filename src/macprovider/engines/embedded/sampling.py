"""From logits to tokens: greedy rows all at once, sampled ones too, penalties and grammars row by row.

Order: logit_bias, penalties, grammar, temperature, top_k, top_p. A draw is one number u of the request's own generator and the
first token whose cumulative probability exceeds u (in the order of the ids, or most likely first where top_k or top_p need that
order): so an answer depends on its seed and its logits only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from macprovider.engines.base import EngineError, GenerationRequest, Sampling, Token

if TYPE_CHECKING:
    from macprovider.engines.embedded.grammar import Grammar


@dataclass(eq=False)
class Draw:
    """How one answer draws. counts: its tokens so far, kept only where a penalty needs them. fault: why it cannot draw any more."""

    sampling: Sampling
    top_logprobs: int | None = None
    grammar: Grammar | None = None
    generator: torch.Generator | None = None
    counts: Counter[int] = field(default_factory=Counter)
    fault: str = ""

    @property
    def shaped(self) -> bool:
        """Whether its logits are changed before anything is drawn."""
        s = self.sampling
        return bool(s.logit_bias or s.presence_penalty or s.frequency_penalty or self.grammar)

    @property
    def truncated(self) -> bool:
        """Whether unlikely tokens are left out."""
        return self.sampling.top_p < 1 or self.sampling.top_k > 0

    @property
    def plain(self) -> bool:
        """Greedy, and nothing else asked for."""
        return self.sampling.temperature == 0 and self.top_logprobs is None and not self.shaped

    def take(self, token: int) -> bool:
        """Hear which token was taken; returns whether a grammar says that the answer is complete. Raises EngineError."""
        if self.sampling.presence_penalty or self.sampling.frequency_penalty:
            self.counts[token] += 1
        return self.grammar is not None and self.grammar.take(token)


def draw_for(request: GenerationRequest, grammar: Grammar | None = None) -> Draw:
    """The state of a new answer; without a seed its generator starts by chance."""
    draw = Draw(request.sampling, request.top_logprobs, grammar)
    if request.sampling.temperature > 0:
        draw.generator = torch.Generator()
        if request.sampling.seed is None:
            draw.generator.seed()
        else:
            draw.generator.manual_seed(request.sampling.seed % (1 << 63))
    return draw


def choose(logits: Tensor, draws: Sequence[Draw]) -> list[Token | None]:
    """The next token of each row of logits `[B, V]` (any float dtype); None for a row that holds no numbers, and for one whose grammar
    has failed, which `Draw.fault` tells.

    The caller tells each draw by `Draw.take`.
    """
    logits = logits.float()
    if all(draw.plain for draw in draws):
        best = logits.max(-1)
        values, ids = torch.stack((best.values.double(), best.indices.double())).tolist()
        return [Token(int(index)) if value == value else None for value, index in zip(values, ids, strict=True)]
    healthy = logits.amax(-1).isfinite().tolist()
    shaped = logits
    if any(draw.shaped for draw in draws):
        shaped = logits.clone()
        for row, draw in enumerate(draws):
            if draw.shaped and healthy[row]:
                try:
                    shape(shaped[row], draw)
                except EngineError as error:
                    draw.fault, healthy[row] = str(error), False
    chosen = shaped.argmax(-1)
    sampled = [row for row, draw in enumerate(draws) if draw.generator is not None and healthy[row]]
    for rows in ([row for row in sampled if draws[row].truncated is wanted] for wanted in (False, True)):
        if rows:
            chosen[rows] = _sample(shaped[rows], [draws[row] for row in rows])
    return _with_logprobs(logits, chosen, draws, healthy)


def shape(logits: Tensor, draw: Draw) -> None:
    """Change one row of logits `[V]` in place: bias, penalties, grammar. Penalties as the OpenAI interface defines them:
    presence once, frequency times the count, over the tokens answered so far.
    """
    sampling = draw.sampling
    if sampling.logit_bias:
        ids = torch.tensor(list(sampling.logit_bias), device=logits.device)
        logits[ids] += torch.tensor(list(sampling.logit_bias.values()), dtype=logits.dtype, device=logits.device)
    if draw.counts:
        ids = torch.tensor(list(draw.counts), device=logits.device)
        times = torch.tensor(list(draw.counts.values()), dtype=logits.dtype, device=logits.device)
        logits[ids] -= sampling.presence_penalty + sampling.frequency_penalty * times
    if draw.grammar is not None:
        logits.masked_fill_(draw.grammar.forbidden(logits.device), -torch.inf)


def kept_probabilities(logits: Tensor, sampling: Sequence[Sampling]) -> tuple[Tensor, Tensor]:
    """Probabilities `[B, V]`, most likely first, 0 for what top_k and top_p leave out and not normalised again, with the token
    ids in that order. top_p keeps the fewest tokens whose probabilities, among those that top_k keeps, reach it.
    """
    device, width = logits.device, logits.shape[-1]
    ordered, ids = _cooled(logits, sampling).sort(dim=-1, descending=True, stable=True)
    if any(s.top_k for s in sampling):
        most = torch.tensor([min(s.top_k, width) or width for s in sampling], device=device)[:, None]
        ordered = ordered.masked_fill(torch.arange(width, device=device) >= most, -torch.inf)
    p = ordered.double().softmax(-1)
    if any(s.top_p < 1 for s in sampling):
        least = torch.tensor([s.top_p if s.top_p < 1 else 2.0 for s in sampling], dtype=p.dtype, device=device)[:, None]
        before = p.cumsum(-1) - p
        before[:, 0] = -1.0  # the most likely token stays, even with top_p 0
        p = p.masked_fill(before >= least, 0.0)
    return p, ids


def _cooled(logits: Tensor, sampling: Sequence[Sampling]) -> Tensor:
    """Logits over temperature; the largest becomes 0 first, so that a tiny temperature gives no infinity."""
    least = torch.finfo(logits.dtype).tiny  # a smaller one would become 0
    temperature = torch.tensor([max(s.temperature, least) for s in sampling], dtype=logits.dtype, device=logits.device)[:, None]
    return (logits - logits.amax(-1, keepdim=True)) / temperature


def _sample(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """One token id for each row, `[B]`; the rows are all truncated or none is."""
    sampling = [draw.sampling for draw in draws]
    if draws[0].truncated:
        p, ids = kept_probabilities(logits, sampling)
    else:
        p, ids = _cooled(logits, sampling).double().softmax(-1), None
    u = torch.stack([torch.rand((), dtype=torch.float64, generator=draw.generator) for draw in draws])
    sums = p.cumsum(-1)
    # u < 1, so the sum that exceeds u times the whole is there, and the first one belongs to a token with a share.
    place = torch.searchsorted(sums, u.to(p.device)[:, None] * sums[:, -1:], right=True)
    return (place if ids is None else ids.gather(-1, place))[:, 0]


def _with_logprobs(logits: Tensor, chosen: Tensor, draws: Sequence[Draw], healthy: Sequence[bool]) -> list[Token | None]:
    """Tokens with the natural log-probabilities asked for, of the distribution of `logits` before any change."""
    ids = chosen.tolist()
    tokens: list[Token | None] = [Token(index) if good else None for index, good in zip(ids, healthy, strict=True)]
    asking = [row for row, draw in enumerate(draws) if draw.top_logprobs is not None and healthy[row]]
    if not asking:
        return tokens
    logs = logits[asking].log_softmax(-1)
    own = logs.gather(-1, chosen[asking, None])[:, 0].tolist()
    most = min(max(draws[row].top_logprobs or 0 for row in asking), logits.shape[-1])
    best = logs.topk(most)
    for row, log, names, values in zip(asking, own, best.indices.tolist(), best.values.tolist(), strict=True):
        count = draws[row].top_logprobs or 0
        tokens[row] = Token(ids[row], log, tuple(zip(names[:count], values[:count], strict=True)))
    return tokens
