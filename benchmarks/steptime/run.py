"""Step time of the pipeline against a bare PyTorch loop on the same model, data and batch.

    python benchmarks/steptime/run.py [--rounds 6] [--steps 12] [--out benchmarks/steptime/results.json]

Blocks of steps alternate in one process (bare, ours, bare, ours, …), so that a busy machine slows both alike. "Ours" is the
real thing: Trainer, chunked loss, metrics every step, breaker, heartbeat, control. The bare loop has model, loss, backward,
clipping and a fused AdamW, and reads the loss once per step. The first steps of every block are left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import table, write_result
from modelwright.checkpoints import CheckpointStore
from modelwright.control import signals_as_requests
from scaler_wizard.bootstrap import bootstrap
from scaler_wizard.circuit_breaker import CBConfig, CircuitBreaker
from scaler_wizard.evaluation import Evaluator
from scaler_wizard.preparation import prepare
from scaler_wizard.resolve import resolve_document
from scaler_wizard.rung_data import evaluation_texts, load_pool, training_windows
from scaler_wizard.rung_training import RungTraining
from scaler_wizard.runner import accept_contract, open_run
from scaler_wizard.session import Session
from scaler_wizard.training import stack_windows

LENGTH = 512
SKIPPED = 3  # steps at the start of each block
LIMIT = 1.10


def write_base(folder: Path, hidden: int, layers: int, vocabulary: int) -> None:
    """A random Llama of the wanted width with a byte tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: index for index, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>").save_pretrained(folder)


def job_document(root: Path, steps: int, batch: int) -> dict[str, Any]:
    """A job over this interpreter's own library as text."""
    return {
        "model": {"base_model": str(root / "model"), "runtime": "cpu"},
        "scaling": {"target_context": 2048, "lora_rank": 16, "template": "balanced_scaling", "context_method": "yarn"},
        "dataset": {"source": "local_upload", "identifier": str(root / "text.txt")},
        "safety": {"circuit_breaker": {"min_accuracy": 0.0}, "telemetry": {"profile": "high_resolution"}},
        "contract": {
            "version": "1.0.0",
            "authorized_by": "benchmark",
            "approved_at": "2026-01-01T00:00:00Z",
            "session_id": "benchmark",
            "scope": "one benchmark",
            "rollback_plan": "phase_0",
            "signoff": "I accept responsibility for this run",
        },
        "training": {"steps_per_rung": steps, "micro_batch_size": batch, "save_every": 0, "gradient_checkpointing": "off"},
        "evaluation": {"eval_every": 0, "eval_tokens": 4096},
        "output_dir": str(root / "run"),
    }


class StepClock(TrainerCallback):
    """Wall seconds from the end of one step to the end of the next: all that a step costs."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        return [after - before for before, after in pairwise(self.ends)][SKIPPED - 1 : -1]


def bare_block(model: Any, windows: Dataset[dict[str, torch.Tensor]], steps: int, batch: int) -> list[float]:
    """Step times of a plain loop, the first ones and the last left out."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-5, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    model.train()
    ends = []
    for step in range(steps):
        inputs = stack_windows([windows[step * batch + i] for i in range(batch)])
        loss = model(**inputs, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        float(loss.detach())
        ends.append(time.perf_counter())
    return [after - before for before, after in pairwise(ends)][SKIPPED - 1 : -1]


def measure(root: Path, rounds: int, steps: int, batch: int, threads: int) -> dict[str, list[float]]:
    """Alternate blocks of both; step times in seconds."""
    torch.set_num_threads(threads)
    document = job_document(root, steps, batch)
    job = resolve_document(document)
    accepted = accept_contract(job)
    found: dict[str, list[float]] = {"bare": [], "ours": []}
    with signals_as_requests() as signals, open_run(job, None, document) as run:
        session = Session(job, run, accepted.contract, signals=signals, quiet=True)
        runtime = bootstrap(job, run.path)
        prepared = prepare(job, runtime)
        pool = load_pool(job, prepared.tokenizer)
        texts = evaluation_texts(pool, prepared.tokenizer, 2048, 4096)
        evaluator = Evaluator(session, prepared.model, prepared.tokenizer, texts)
        breaker = CircuitBreaker(CBConfig(), printer=lambda line: None)
        training = RungTraining(session, runtime, prepared, evaluator, breaker, pool)
        rung = job.rungs[0]
        session.enter(rung)
        windows = training_windows(pool, job, rung, prepared.pad_id)
        for _ in range(rounds):
            found["bare"] += bare_block(prepared.model, windows, steps, batch)
            trainer = training.trainer_for(rung)
            clock = StepClock()
            trainer.add_callback(clock)
            trainer.train()
            found["ours"] += clock.seconds()
        assert isinstance(session.store, CheckpointStore)
        session.close()
        run.finish("completed", 0)
    return found


def main() -> int:
    """Measure, print, write; exit 1 when the ratio is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=12, help="steps per block")
    parser.add_argument("--batch", type=int, default=4, help="windows of 512 tokens per step")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_base(root / "model", given.hidden, given.layers, 2048)
        library = Path(argparse.__file__).parent
        text = "".join((library / name).read_text(encoding="utf-8") for name in ("argparse.py", "typing.py", "inspect.py"))
        (root / "text.txt").write_text(text, encoding="utf-8")
        times = measure(root, given.rounds, given.steps, given.batch, given.threads)
    ratio = median(times["ours"]) / median(times["bare"])
    rows = [
        {"loop": name, "median_ms": round(1000 * median(values), 2), "best_ms": round(1000 * min(values), 2), "steps": len(values)}
        for name, values in times.items()
    ]
    print(table(rows, ["loop", "median_ms", "best_ms", "steps"]))
    print(f"ratio of medians {ratio:.3f} (limit {LIMIT})")
    settings = {name: value for name, value in vars(given).items() if name != "out"}
    write_result(given.out, benchmark="steptime", settings={**settings, "length": LENGTH}, results=rows, ratio=round(ratio, 4), limit=LIMIT)
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
