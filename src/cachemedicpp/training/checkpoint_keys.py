"""The keys of the files under `checkpoints/`, and the check that a loaded one has exactly them. (specs/medic.md, 4.4)"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from modelwright.errors import DamagedFileError

SaveReason = Literal["heartbeat", "periodic_checkpoint", "pause_request", "keyboard_interrupt"]
REPAIR_KEYS = frozenset({"step", "repair_state", "config_hash", "repair_config", "model_name", "head_dim", "num_kv_heads"})
"""`repair_step_<N>.pt`: loads without the configuration file."""
STATE_KEYS = frozenset({
    "step", "reason", "timestamp_utc", "config_hash", "repair_state", "optimizer_state", "data_gen_state", "torch_rng_state",
    "corruption_state", "tokens_since_log", "elapsed_wall_sec", "latest_repair_checkpoint",
})  # fmt: skip
"""`train_state_latest.pt` and `train_state_step_<N>.pt`."""
GPU_STATE_KEYS = frozenset({"torch_cuda_rng_state_all"})
"""Only in a state saved on a GPU."""


def check_keys(document: Any, path: str | Path, kind: Literal["repair", "state"]) -> Mapping[str, Any]:
    """`document` as loaded from `path`, when its keys are those of its kind. Raises DamagedFileError naming the others."""
    required, optional = (REPAIR_KEYS, frozenset[str]()) if kind == "repair" else (STATE_KEYS, GPU_STATE_KEYS)
    if not isinstance(document, Mapping):
        raise DamagedFileError(path, f"it holds a {type(document).__name__}", f"a mapping with {', '.join(sorted(required))}")
    missing, unknown = sorted(required - set(document)), sorted(set(map(str, document)) - required - optional)
    if missing or unknown:
        where = "; ".join(f"{word}: {', '.join(keys)}" for word, keys in (("missing keys", missing), ("unknown keys", unknown)) if keys)
        raise DamagedFileError(path, where, f"the keys {', '.join(sorted(required))}", "Use a checkpoint of this version, or start anew")
    return document
