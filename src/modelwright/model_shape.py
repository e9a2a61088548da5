"""The sizes of a causal language model read from its ``config.json``, and the parameter counts that follow from them.

Pure arithmetic without torch. Letters: V vocabulary rows, d hidden width, f feed-forward width, H query heads, Hkv
key/value heads, h width of one head, E experts. Counts are exact for the families in :data:`GATED` and :data:`PLAIN`
(tests compare them with models that transformers builds on the meta device) and approximate, and marked so, for any
other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelwright.errors import LoadError

GATED = frozenset({"llama", "mistral", "qwen2", "qwen3", "mixtral", "smollm3", "gemma"})
PLAIN = frozenset({"gpt2"})
QKV_BIAS = frozenset({"qwen2"})
QK_NORM = frozenset({"qwen3"})
TIED_UNLESS_TOLD = frozenset({"gpt2", "gemma", "gemma2", "gemma3_text"})

_HIDDEN = ("hidden_size", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "num_heads")
_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


@dataclass(frozen=True)
class ModelShape:
    """Sizes of one model. ``exact`` is false when the family is unknown and a gated decoder was assumed."""

    model_type: str
    layers: int
    hidden: int
    feed_forward: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    tied: bool
    gated: bool = True
    biases: bool = False
    qkv_biases: bool = False
    mlp_biases: bool = False
    qk_norm: bool = False
    learned_positions: bool = False
    experts: int = 1
    exact: bool = True

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Read a Hugging Face ``config.json`` (Llama, Qwen, Mistral or GPT-2 naming; a nested ``text_config`` is
        followed).

        Raises:
            LoadError: a size is missing or no positive whole number.
        """
        if "text_config" in config and not any(key in config for key in _HIDDEN):
            config = config["text_config"]
        model_type = str(config.get("model_type", "unknown"))
        hidden = _size(config, _HIDDEN)
        heads = _size(config, _HEADS)
        plain = model_type in PLAIN
        return cls(
            model_type=model_type,
            layers=_size(config, _LAYERS),
            hidden=hidden,
            feed_forward=_size(config, ("intermediate_size", "n_inner", "ffn_dim"), default=4 * hidden),
            vocabulary=_size(config, ("vocab_size",)),
            heads=heads,
            kv_heads=_size(config, ("num_key_value_heads",), default=heads),
            head_dim=_size(config, ("head_dim",), default=hidden // heads),
            context=_size(config, _CONTEXT),
            tied=bool(config.get("tie_word_embeddings", model_type in TIED_UNLESS_TOLD)),
            gated=not plain,
            biases=plain,
            qkv_biases=plain or bool(config.get("attention_bias", model_type in QKV_BIAS)),
            mlp_biases=plain or bool(config.get("mlp_bias", False)),
            qk_norm=model_type in QK_NORM,
            learned_positions=plain,
            experts=_size(config, ("num_local_experts",), default=1),
            exact=model_type in GATED | PLAIN,
        )

    @property
    def query_width(self) -> int:
        """H·h, which may differ from d."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Hkv·h."""
        return self.kv_heads * self.head_dim

    def linears(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of every linear layer of one block that carries an adapter, experts counted once each."""
        attention: tuple[tuple[int, int], ...]
        mlp: tuple[tuple[int, int], ...]
        if self.gated:
            attention = (
                (self.hidden, self.query_width),
                (self.hidden, self.kv_width),
                (self.hidden, self.kv_width),
                (self.query_width, self.hidden),
            )
            mlp = ((self.hidden, self.feed_forward),) * 2 + ((self.feed_forward, self.hidden),)
        else:  # GPT-2 computes q, k and v by one layer
            attention = ((self.hidden, self.query_width + 2 * self.kv_width), (self.query_width, self.hidden))
            mlp = ((self.hidden, self.feed_forward), (self.feed_forward, self.hidden))
        return attention + mlp * self.experts

    def embedding_parameters(self) -> int:
        """Input embeddings (with learned positions) and, when not tied, the output head."""
        rows = self.vocabulary * (1 if self.tied else 2) + (self.context if self.learned_positions else 0)
        return rows * self.hidden

    def norm_parameters(self) -> int:
        """Two norms per block and the last one; GPT-2's have a bias; Qwen3 also normalises queries and keys."""
        per_norm = self.hidden * (2 if self.biases else 1)
        per_block = 2 * per_norm + (2 * self.head_dim if self.qk_norm else 0)
        return self.layers * per_block + per_norm

    def parameters(self) -> int:
        """All parameters of the model."""
        matrices = sum(inputs * outputs for inputs, outputs in self.linears())
        if self.experts > 1:
            matrices += self.hidden * self.experts  # the router
        if self.qkv_biases:
            matrices += self.query_width + 2 * self.kv_width
            # Llama's attention_bias puts one on the output projection too; Qwen2's does not.
            matrices += self.hidden if self.model_type not in QKV_BIAS else 0
        if self.mlp_biases:
            matrices += self.feed_forward * (2 if self.gated else 1) + self.hidden
        return self.layers * matrices + self.embedding_parameters() + self.norm_parameters()

    def lora_parameters(self, rank: int) -> int:
        """Parameters of rank-r adapters on every linear layer of every block (``all-linear``): Σ r·(inputs +
        outputs).
        """
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.linears())


def _size(config: Mapping[str, Any], names: tuple[str, ...], default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise LoadError(f"config.json: {name} is {value!r}; a whole number of at least 1 is needed")
        return value
    if default is None:
        raise LoadError(f"config.json: none of {', '.join(names)} is present; is this the config of a causal language model?")
    return default
