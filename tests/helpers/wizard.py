"""What the scaler wizard's command needs in a test: a small model folder, a dataset, a contract that is signed off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers.tiny_random import random_llama, save_model
from scaler_wizard.contract import SIGNOFF, template


def write_model(folder: Path, context: int = 2048, **changes: Any) -> Path:
    """A random Llama of about 0.1 M parameters with a byte tokenizer, complete with weights."""
    return save_model(folder, random_llama(max_position_embeddings=context, **changes))


def write_data(path: Path, rows: int = 40) -> Path:
    """Instruction records in JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [{"instruction": f"Add {i} and {i + 1}.", "input": "", "output": str(2 * i + 1)} for i in range(rows)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_contract(path: Path, **known: Any) -> Path:
    """A contract that is filled in and signed off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(template(authorized_by="Ada", signoff=SIGNOFF, **{"max_context": 131072, **known}), encoding="utf-8")
    return path
