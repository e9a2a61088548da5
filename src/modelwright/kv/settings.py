"""How a KV cache is quantised: the settings, their short names, and the exact bytes they cost. Needs no torch.

Notation: H KV heads, d channels per head, T cached tokens, g the group size, b bits.

    head    one symmetric scale per head for g tokens x d channels
    group   per token: asymmetric groups of g channels (of all d where d < g)
    kivi    keys: each channel on its own, asymmetric, over g tokens; values: as `group` (KIVI, Liu et al. 2024)

Tokens leave the full-precision window in whole blocks, oldest first. A block is the smallest run of tokens that can be
quantised without looking at any other token, so a stream and a whole sequence give the same codes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from modelwright.errors import ConfigError, Fault

FULL = 16
"""As `bits_k` or `bits_v`: this half of the cache stays as it comes, in the model's own dtype."""
BITS = (2, 3, 4, 5, 6, 7, 8, FULL)
LAYOUTS = ("head", "group", "kivi")
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SCALE_BYTES = 2
"""Scales, zeros and low-rank factors are stored as float16."""
INDEX_BYTES = 2
_LARGEST_UNIT = 1 << (8 * INDEX_BYTES)
_RESIDUAL_BLOCK = 128  # tokens that share one right factor of a low-rank residual, unless `block` says otherwise

_NAME = re.compile(r"(hadamard-)?(head|group|kivi)(\d+)?-(?:(\d+)|k(\d+)v(\d+))((?:-[a-z]+[0-9.]+)*)")
_SUFFIX = re.compile(r"([a-z]+)([0-9.]+)")
_SUFFIXES = {"recent": "recent", "outliers": "outlier_share", "rank": "residual_rank", "block": "block", "seed": "seed"}
NAME_GRAMMAR = (
    "[hadamard-](head|group|kivi)[group size]-(bits | k<bits>v<bits>)[-recent<tokens>][-outliers<share>][-rank<r>][-block<tokens>]"
    "[-seed<n>], for example kivi-4, group32-3, hadamard-group32-2, kivi-k5v4-recent32"
)


@dataclass(frozen=True)
class TensorFormat:
    """What the settings mean for one tensor (keys or values) with `head_dim` channels.

    A group is `group_tokens` x `group_channels` values that share a scale. block: tokens quantised together.
    outliers: values kept exactly, per head and block. recent: newest tokens never quantised.
    """

    head_dim: int
    bits: int
    group_tokens: int
    group_channels: int
    symmetric: bool
    block: int
    recent: int
    hadamard: bool
    seed: int
    outliers: int
    rank: int

    @property
    def levels(self) -> int:
        """The largest code: 2^b - 1, one less for a symmetric format, whose codes lie evenly around zero."""
        return (1 << self.bits) - (2 if self.symmetric else 1)

    def quantised_tokens(self, tokens: int) -> int:
        """How many of the oldest of `tokens` cached tokens are quantised; the rest is in full precision."""
        if self.bits == FULL:
            return 0
        return max(0, tokens - self.recent) // self.block * self.block

    def block_bytes(self, itemsize: int) -> int:
        """Bytes of one quantised block of one head. itemsize: bytes per value of the unquantised cache."""
        values = self.block * self.head_dim
        if self.bits == FULL:
            return values * itemsize
        groups = values // (self.group_tokens * self.group_channels)
        scales = groups * SCALE_BYTES * (1 if self.symmetric else 2)
        outliers = self.outliers * (INDEX_BYTES + itemsize)
        residual = self.rank * (self.block + self.head_dim) * SCALE_BYTES
        return values * self.bits // 8 + scales + outliers + residual


@dataclass(frozen=True)
class KVQuantisation:
    """How a KV cache is quantised; see the module's description for the layouts.

    bits_k, bits_v: bits per key and per value, of BITS. layout: one of LAYOUTS. group: group size, a multiple of 8.
    recent: newest tokens kept in full precision. hadamard: rotate each head's channels by a random-sign Hadamard
    matrix first (QuaRot, Ashkboos et al. 2024); seed: of its signs. outlier_share: share of values kept exactly, as
    index and value, at least one per head and block (KVQuant, Hooper et al. 2024). residual_rank: rank of the
    correction added to each block (GEAR, Kang et al. 2024). block: tokens that leave the window together; 0 for the
    fewest that the layout permits (`group` with outliers, 128 or a little more with a residual).

    Raises ConfigError with every fault at once.
    """

    bits_k: int
    bits_v: int
    layout: Literal["head", "group", "kivi"] = "kivi"
    group: int = 32
    recent: int = 0
    hadamard: bool = False
    outlier_share: float = 0.0
    residual_rank: int = 0
    block: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        faults = list(_faults(self))
        if faults:
            raise ConfigError(faults)

    @property
    def name(self) -> str:
        """The short name; `parse` reads it back to equal settings."""
        rotation = "hadamard-" if self.hadamard else ""
        group = f"{self.group}" if self.layout == "group" or self.group != 32 else ""
        bits = f"{self.bits_k}" if self.bits_k == self.bits_v else f"k{self.bits_k}v{self.bits_v}"
        set_here = ((word, getattr(self, field)) for word, field in _SUFFIXES.items())
        return f"{rotation}{self.layout}{group}-{bits}" + "".join(f"-{word}{_decimal(value)}" for word, value in set_here if value)

    def format(self, part: Literal["key", "value"], head_dim: int) -> TensorFormat:
        """The format of the keys or of the values. Raises ConfigError where the settings do not fit `head_dim`."""
        channelwise = self.layout == "kivi" and part == "key"
        tokens = self.group if channelwise or self.layout == "head" else 1
        channels = 1 if channelwise else head_dim if self.layout == "head" else min(self.group, head_dim)
        block = self.block or self._smallest_block(tokens)
        found = TensorFormat(
            head_dim=head_dim,
            bits=self.bits_k if part == "key" else self.bits_v,
            group_tokens=tokens,
            group_channels=channels,
            symmetric=self.layout == "head",
            block=block,
            recent=self.recent,
            hadamard=self.hadamard,
            seed=self.seed,
            outliers=max(1, round(self.outlier_share * block * head_dim)) if self.outlier_share else 0,
            rank=self.residual_rank,
        )
        faults = list(_misfits(self, found))
        if faults:
            raise ConfigError(faults)
        return found

    def _smallest_block(self, tokens: int) -> int:
        if self.residual_rank:
            return -(-_RESIDUAL_BLOCK // self.group) * self.group
        return self.group if self.outlier_share else tokens


def parse(name: str) -> KVQuantisation:
    """Settings from their short name (`kivi-4`, `group32-3`, `hadamard-group32-2`, `kivi-k5v4-recent32`).

    Raises ConfigError that names the grammar, or what the settings do not allow.
    """
    match = _NAME.fullmatch(name.strip())
    if match is None:
        raise ConfigError([Fault("KV quantisation", repr(name), NAME_GRAMMAR)])
    rotation, layout, group, bits, bits_k, bits_v, tail = match.groups()
    options: dict[str, int | float] = {}
    faults = []
    for word, number in _SUFFIX.findall(tail):
        field = _SUFFIXES.get(word)
        if field is None or field in options:
            faults.append(Fault(f"KV quantisation {name!r}", f"-{word}{number}", f"each of {', '.join(_SUFFIXES)} at most once"))
            continue
        try:
            options[field] = float(number) if field == "outlier_share" else int(number)
        except ValueError:
            kind = "a decimal number" if field == "outlier_share" else "a whole number"
            faults.append(Fault(f"KV quantisation {name!r}", f"-{word}{number}", f"{kind} after {word}"))
    if faults:
        raise ConfigError(faults)
    if group is not None:
        options["group"] = int(group)
    return KVQuantisation(int(bits or bits_k), int(bits or bits_v), layout, hadamard=bool(rotation), **options)  # type: ignore[arg-type]


def bytes_per_token(settings: KVQuantisation, heads: int, head_dim: int, dtype: object) -> float:
    """Bytes that one more token costs in one layer, keys and values, once it has left the window (block averages).

    heads: KV heads. dtype: of the unquantised cache, a name of DTYPE_BYTES or the torch dtype.
    Raises ConfigError where the settings do not fit.
    """
    itemsize = _itemsize(dtype)
    formats = (settings.format("key", head_dim), settings.format("value", head_dim))
    return sum(heads * form.block_bytes(itemsize) / form.block for form in formats)


def bits_per_value(settings: KVQuantisation, head_dim: int, dtype: object) -> float:
    """`bytes_per_token` as bits per cached number, scales and all: the `kv_bits` of the memory forecast."""
    return bytes_per_token(settings, 1, head_dim, dtype) * 8 / (2 * head_dim)


def cache_bytes(settings: KVQuantisation, tokens: int, heads: int, head_dim: int, dtype: object, batch: int = 1) -> int:
    """Bytes of one layer's cache of `tokens` tokens, the full-precision window and unfinished blocks included."""
    itemsize = _itemsize(dtype)
    total = 0
    for part in ("key", "value"):
        form = settings.format(part, head_dim)  # type: ignore[arg-type]
        quantised = form.quantised_tokens(tokens)
        total += quantised // form.block * form.block_bytes(itemsize) + (tokens - quantised) * head_dim * itemsize
    return batch * heads * total


def _itemsize(dtype: object) -> int:
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPE_BYTES:
        raise ConfigError([Fault("dtype", name, ", ".join(DTYPE_BYTES))])
    return DTYPE_BYTES[name]


def _decimal(value: float) -> str:
    """Without an exponent, which the grammar has not, and read back to the same number."""
    return str(value) if isinstance(value, int) else f"{value:.10f}".rstrip("0")


def _faults(settings: KVQuantisation) -> list[Fault]:
    """What is wrong whatever the model."""
    faults = []
    whole = "a whole number of 0 or more"

    def check(field: str, good: bool, allowed: str, todo: str = "") -> None:
        if not good:
            faults.append(Fault(field, repr(getattr(settings, field)), allowed, todo))

    bits = f"{', '.join(str(b) for b in BITS[:-1])}, or {FULL} to leave this half of the cache as it is"
    check("bits_k", settings.bits_k in BITS, bits)
    check("bits_v", settings.bits_v in BITS, bits)
    both = settings.bits_k == settings.bits_v == FULL
    check("bits_k", not both, f"{FULL} for keys or for values, not for both", "Use no KV quantisation instead")
    check("layout", settings.layout in LAYOUTS, ", ".join(LAYOUTS))
    grouped = isinstance(settings.group, int) and settings.group >= 8 and settings.group % 8 == 0
    check("group", grouped, "a multiple of 8, at least 8; 32 and 64 are usual")
    for field in ("recent", "residual_rank", "seed"):
        value = getattr(settings, field)
        check(field, isinstance(value, int) and value >= 0, whole)
    block = isinstance(settings.block, int) and settings.block >= 0 and (not grouped or settings.block % settings.group == 0)
    check("block", block, f"0, or a multiple of the group size {settings.group}")
    share = settings.outlier_share
    exact = isinstance(share, float | int) and 0 <= share <= 0.25 and share == round(share, 10)
    check("outlier_share", exact, "0 to 0.25 with at most ten decimals; 0.01 is usual")
    return faults


def _misfits(settings: KVQuantisation, form: TensorFormat) -> list[Fault]:
    """What does not fit the model's head_dim."""
    faults = []
    head_dim, channels = form.head_dim, form.group_channels
    if head_dim < 8 or head_dim % 8:
        faults.append(Fault("head_dim", str(head_dim), "a multiple of 8", "Leave the KV cache of this model unquantised"))
    elif head_dim % channels:
        fitting = [g for g in range(8, head_dim + 1, 8) if head_dim % g == 0]
        faults.append(Fault("group", str(settings.group), f"for head_dim {head_dim}: {', '.join(map(str, fitting))}"))
    if form.hadamard and head_dim & (head_dim - 1):
        faults.append(Fault("hadamard", "true", f"false for head_dim {head_dim}, which is not a power of two"))
    if form.rank > min(form.block, head_dim):
        faults.append(Fault("residual_rank", str(form.rank), f"0 to {min(form.block, head_dim)} (block {form.block}, head_dim {head_dim})"))
    if form.outliers and form.block * head_dim > _LARGEST_UNIT:
        largest = _LARGEST_UNIT // head_dim
        faults.append(Fault("block", str(form.block), f"at most {largest} tokens with outliers and head_dim {head_dim}"))
    return faults
