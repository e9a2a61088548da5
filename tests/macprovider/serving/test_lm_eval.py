"""lm-eval's `local-chat-completions` on a task of our own, where lm-eval is installed (`pip install 'lm-eval[api]'`)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.served import served

PAIRS = (("hot", "cold"), ("big", "small"), ("old", "new"), ("fast", "slow"), ("open", "closed"), ("full", "empty"))
TASK = """task: opposites
dataset_path: json
dataset_kwargs:
  data_files: {{test: {rows}}}
test_split: test
output_type: generate_until
doc_to_text: "What is the opposite of {{{{word}}}}?"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 24, temperature: 0}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs the package lm-eval")
def test_a_generation_task_of_lm_eval(tmp_path: Path) -> None:
    """tiny-5m was trained on these questions, so that the score says whether the answers arrive whole."""
    rows = tmp_path / "opposites.jsonl"
    rows.write_text("".join(json.dumps({"word": a, "answer": f"The opposite of {a} is {b}."}) + "\n" for a, b in PAIRS))
    (tmp_path / "opposites.yaml").write_text(TASK.format(rows=rows))
    with served("modelwright/tiny-5m", "--max-batch", "2") as server:
        arguments = f"model={server.model},base_url={server.url}/v1/chat/completions,num_concurrent=2,max_retries=1"
        command = ["--model", "local-chat-completions", "--model_args", arguments, "--tasks", "opposites", "--apply_chat_template"]
        done = subprocess.run(
            [sys.executable, "-m", "lm_eval", *command, "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")],
            env={**os.environ, "OPENAI_API_KEY": "none", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(found.read_text())["results"]["opposites"]["exact_match,none"] >= 5 / 6
