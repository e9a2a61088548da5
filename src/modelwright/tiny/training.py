"""Training a tiny model: plain PyTorch, because a Trainer's overhead per step is larger than these models' steps.

The only randomness is the initial weights (from the seed) and each step's batch (from the seed and the step number),
so a checkpoint of weights and optimizer state resumes exactly: with the same number of threads the weights after a
stop equal the uninterrupted ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from modelwright.errors import LoadError
from modelwright.files import make_folder, sha256_file, sha256_json
from modelwright.tiny import dialogues, rows, tiny_model_path
from modelwright.tiny.batches import TrainingData, make_batch
from modelwright.tiny.checkpoint import CHECKPOINT_NAME, load_checkpoint, save_checkpoint
from modelwright.tiny.corpus import Corpus, load_corpus
from modelwright.tiny.recipe import Recipe
from modelwright.tiny.tokenizer import END_OF_TEXT, IM_END, LABEL_TOKENS, SPECIAL_TOKENS, train_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

TOKENIZER_SEED = 0
TOKENIZER_ROWS = 600


@dataclass(frozen=True)
class Progress:
    """Where a training stands: `step` of `steps` done, the last loss (nats per weighted token), tokens/s and seconds
    left.
    """

    step: int
    steps: int
    length: int
    loss: float
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True, repr=False)
class Prepared:
    """Corpus, tokenizer and encoded training data, shared by all sizes."""

    corpus: Corpus
    tokenizer: PreTrainedTokenizerFast
    data: TrainingData


def prepare(vocabulary_size: int, context: int, root: Path | None = None) -> Prepared:
    """Read the corpus (of `root`, by default the standard library), train the tokenizer on it and on some synthetic
    rows, encode it.
    """
    import torch

    corpus = load_corpus(root)
    tokenizer = train_tokenizer([file.text for file in corpus.train] + _tokenizer_rows(), vocabulary_size, context)
    end_of_text = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    stream: list[int] = []
    for encoding in tokenizer.backend_tokenizer.encode_batch([file.text for file in corpus.train], add_special_tokens=False):
        stream.extend(encoding.ids)
        stream.append(end_of_text)
    data = TrainingData(
        stream=torch.tensor(stream, dtype=torch.int32),
        sources=[file.text for file in corpus.train],
        encode=rows.cached_encoder(tokenizer),
        vocabulary_size=vocabulary_size,
        first_plain=len(SPECIAL_TOKENS) + len(LABEL_TOKENS),
        pad=tokenizer.pad_token_id,
    )
    return Prepared(corpus, tokenizer, data)


def _tokenizer_rows() -> list[str]:
    """Synthetic rows for the tokenizer to learn their words from; lengths are counted in thirds of characters, as no
    tokenizer exists yet.
    """

    def encode(text: str) -> range:
        return range(max(1, len(text) // 3))

    rng = Random(f"tokenizer-{TOKENIZER_SEED}")
    texts = []
    for _ in range(TOKENIZER_ROWS):
        for pieces in (
            rows.recall_pieces(rng, 300, encode),
            rows.lookup_pieces(rng, 200, encode),
            dialogues.instruction_pieces(rng, 200, encode),
            dialogues.sentiment_pieces(rng, 200, encode),
        ):
            texts.append("".join(text for text, _ in pieces))
    return texts


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama of the recipe's shape with initial weights drawn from `seed`, float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=recipe.vocabulary_size,
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        intermediate_size=recipe.ffn_size,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.convert_tokens_to_ids(token) for token in (IM_END, END_OF_TEXT)],
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def start_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """The model that training starts with: random weights, or the packaged smaller model that the recipe grows from.

    Raises LoadError when that model is not in this installation or has another vocabulary.
    """
    model = build_model(recipe, tokenizer, seed)
    if recipe.grown_from is not None:
        import torch
        import transformers

        from modelwright.tiny.growth import grow

        folder = tiny_model_path(recipe.grown_from)
        if transformers.AutoTokenizer.from_pretrained(folder).get_vocab() != tokenizer.get_vocab():
            raise LoadError(
                f"The vocabulary of {recipe.grown_from} is not the one of this interpreter's library; train that model here first, "
                "or use the Python version its card names."
            )
        grow(transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), model)
    return model


def _identity(recipe: Recipe, prepared: Prepared, seed: int) -> str:
    """What a checkpoint must agree with to be resumed."""
    identity = {"recipe": asdict(recipe), "seed": seed, "data": prepared.corpus.digest}
    if recipe.grown_from is not None:
        identity["grown_from"] = sha256_file(tiny_model_path(recipe.grown_from) / "model.safetensors")
    return sha256_json(identity)


def build_optimizers(recipe: Recipe, model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for embeddings and norms."""
    import torch

    from modelwright.tiny.muon import Muon

    named = list(model.named_parameters())
    matrices = [parameter for name, parameter in named if parameter.ndim == 2 and "embed" not in name]
    others = [parameter for name, parameter in named if parameter.ndim != 2 or "embed" in name]
    return [
        Muon(matrices, lr=recipe.matrix_rate, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(others, lr=recipe.vector_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True),
    ]


def weighted_loss(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats, averaged by weight; logits are computed only where a weight is not zero.

    `ids` and `weights` are `[B, T]`; the weight of a token belongs to its prediction from the tokens before it.
    """
    import torch

    hidden_BTD = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    chosen = weights[:, 1:] > 0
    kept = weights[:, 1:][chosen]
    losses = torch.nn.functional.cross_entropy(model.lm_head(hidden_BTD[chosen]), ids[:, 1:][chosen], reduction="none")
    return (losses * kept).sum() / kept.sum()


def train(
    recipe: Recipe,
    prepared: Prepared,
    seed: int,
    work: Path,
    *,
    resume: bool = False,
    checkpoint_every: int = 100,
    stop_after: int | None = None,
    report: Callable[[Progress], None] | None = None,
) -> LlamaForCausalLM:
    """Train to the end of the recipe (or to `stop_after` steps) and return the model, float32.

    `work` receives one checkpoint file, replaced atomically every `checkpoint_every` steps and at the end; `resume`
    goes on from it and raises MissingFileError when there is none, LoadError when it belongs to another recipe, seed
    or data.
    """
    import torch

    make_folder(work)
    identity = _identity(recipe, prepared, seed)
    model = start_model(recipe, prepared.tokenizer, seed)
    optimizers = build_optimizers(recipe, model)
    peaks = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    first = load_checkpoint(work / CHECKPOINT_NAME, model, optimizers, identity) if resume else 0
    last = min(recipe.steps, recipe.steps if stop_after is None else stop_after)
    model.train()
    started, seen = time.monotonic(), 0
    for step in range(first, last):
        stage = recipe.stage_at(step)
        ids, weights = make_batch(prepared.data, stage, seed, step)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * recipe.rate_factor(step)
        loss = weighted_loss(model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seen += ids.numel()
        done = step + 1
        if done % checkpoint_every == 0 or done == last:
            save_checkpoint(work / CHECKPOINT_NAME, model, optimizers, identity, done)
        if report is not None and (done % 25 == 0 or done == last):
            speed = seen / (time.monotonic() - started)
            report(Progress(done, recipe.steps, stage.length, loss.item(), speed, _tokens_left(recipe, done) / speed))
    return model.eval()


def _tokens_left(recipe: Recipe, done: int) -> int:
    left = 0
    for stage in recipe.stages:
        left += max(0, stage.steps - done) * stage.rows * stage.length
        done = max(0, done - stage.steps)
    return left
