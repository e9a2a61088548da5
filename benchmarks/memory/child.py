"""One measurement of the memory benchmark, in a process of its own: `python -m benchmarks.memory.child '{…}'`.

Trains a few steps of one side at one length and prints one JSON object as its last line: peak memory in bytes, the
forecast for it, seconds per step. `benchmarks.memory.run` starts it; the fields of the argument are those of `Case`.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from modelwright.hardware import peak_rss_bytes, reset_peak_rss, return_freed_blocks
from modelwright.memory import GIB, MemoryForecast, MemoryRequest, forecast
from modelwright.model_shape import ModelShape
from scaler_wizard.adaptive_scaling import HardwareProfile
from scaler_wizard.memory_plan import memory_request
from scaler_wizard.resolved import ResolvedJob

OURS, STOCK = "modelwright", "stock Trainer + PEFT"
RANK, ALPHA, LEARNING_RATE = 16, 32, 1e-4


@dataclass(frozen=True)
class Case:
    """What to measure. `trainer` is OURS or STOCK, `recompute` gradient checkpointing, lengths in tokens, `limit_bytes` what
    the process may hold; `documents` of equal length fill a window (more than one makes attention keep them apart).
    """

    trainer: str
    recompute: bool
    length: int
    steps: int
    limit_bytes: int
    device: str
    threads: int
    body: dict[str, int]
    documents: int = 1

    @property
    def side(self) -> str:
        return side_name(self.trainer, self.recompute)


def side_name(trainer: str, recompute: bool) -> str:
    """How tables call a side."""
    return f"{trainer}, recompute" if recompute else trainer


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Peak and step times of one case; raises what the allocator raises when the limit is too small."""
    import torch
    import transformers
    from transformers import LlamaConfig, LlamaForCausalLM

    from scaler_wizard.bootstrap import measured_peak

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(case.threads)
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    dtype = torch.bfloat16 if case.device == "cuda" else torch.float32
    config = LlamaConfig(**case.body, max_position_embeddings=case.length, tie_word_embeddings=True, architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    windows = make_windows(case, config.vocab_size)
    build = build_ours if case.trainer == OURS else build_stock
    limit_memory(case)
    before = peak_rss_bytes()
    model = LlamaForCausalLM(config).to(device=case.device, dtype=dtype)
    clock = step_clock()
    train, predicted = build(case, folder, model, windows, clock, before if case.device == "cpu" else 0)
    reset_peak_rss()
    started = time.perf_counter()
    train()
    ends = [started, *clock.ends]
    peak, source = measured_peak(case.device)
    return {
        "peak_bytes": peak,
        "before_model_bytes": before,
        "source": source,
        "step_seconds": [round(after - earlier, 4) for earlier, after in pairwise(ends)],
        "predicted_bytes": predicted.total_bytes,
        "freed_blocks_returned": not predicted.request.keeps_freed,
        "matmul": torch.get_float32_matmul_precision(),
    }


def make_windows(case: Case, vocabulary: int) -> list[dict[str, Any]]:
    """One window of random tokens per step: `input_ids`, `position_ids`, `labels`, each int64 [length]."""
    import torch

    generator = torch.Generator().manual_seed(1)
    size = -(-case.length // case.documents)
    positions = torch.arange(case.length) % size
    windows = []
    for _ in range(case.steps):
        tokens = torch.randint(vocabulary, (case.length,), generator=generator)
        windows.append({"input_ids": tokens, "position_ids": positions.clone(), "labels": tokens.clone()})
    return windows


def build_stock(
    case: Case, folder: Path, model: Any, windows: list[dict[str, Any]], clock: Any, held: int
) -> tuple[Callable[[], object], MemoryForecast]:
    """Trainer and PEFT as their own documentation shows them; logits are whole."""
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    arguments = TrainingArguments(
        output_dir=str(folder / "stock"),
        max_steps=case.steps,
        per_device_train_batch_size=1,
        learning_rate=LEARNING_RATE,
        gradient_checkpointing=case.recompute,
        gradient_checkpointing_kwargs={"use_reentrant": False} if case.recompute else None,
        bf16=case.device == "cuda",
        use_cpu=case.device == "cpu",
        dataloader_pin_memory=case.device == "cuda",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(model=get_peft_model(model, lora), args=arguments, train_dataset=windows, callbacks=[clock])
    return trainer.train, stock_forecast(case, model.config.to_dict(), held)


def build_ours(
    case: Case, folder: Path, model: Any, windows: list[dict[str, Any]], clock: Any, held: int
) -> tuple[Callable[[], object], MemoryForecast]:
    """The pipeline's own pieces: a resolved job, its LoRA strategy, its training arguments, `RungTrainer`, chunked loss."""
    from scaler_wizard import strategies
    from scaler_wizard.chunked_loss import why_not_chunked
    from scaler_wizard.preparation import strategy_plan
    from scaler_wizard.resolve import resolve_document
    from scaler_wizard.training import RungTrainer, training_arguments

    job = resolve_document(
        {
            "model": {"base_model": str(folder), "runtime": "cpu" if case.device == "cpu" else "single_gpu"},
            "scaling": {
                "target_context": max(2048, case.length),
                "lora_rank": RANK,
                "lora_alpha": ALPHA,
                "lora_dropout": 0.0,
                "train_embeddings": "off",
            },
            "dataset": {"source": "synthetic", "identifier": "mixed"},
            "safety": {},
            "contract": {},
            "training": {
                "steps_per_rung": case.steps,
                "learning_rate": LEARNING_RATE,
                "gradient_checkpointing": "on" if case.recompute else "off",
            },
            "output_dir": str(folder / "run"),
        }
    )
    strategy = strategies.get(job.scaling.strategy)
    plan = our_forecast(case, job, held)
    if case.device == "cpu" and not plan.request.keeps_freed:
        return_freed_blocks()
    adapted = strategy.prepare(model, strategy_plan(job))
    chunk = None if why_not_chunked(adapted) else job.training.loss_chunk
    arguments = training_arguments(
        job,
        job.rungs[0],
        folder / "ours",
        bf16=case.device == "cuda",
        cpu=case.device == "cpu",
        checkpointing=case.recompute,
    )
    trainer = RungTrainer(
        model=adapted,
        arguments=arguments,
        windows=windows,  # type: ignore[arg-type]  # a list is all that a sequential loader needs
        strategy=strategy,
        save=lambda fill, step: None,
        loss_chunk=chunk,
        embedding_learning_rate=None,
        callbacks=[clock],
    )
    return trainer.train, plan


def stock_forecast(case: Case, config: dict[str, Any], held: int) -> MemoryForecast:
    """The kernel's estimate for the stock side; `held` is what the process held before the model, in bytes."""
    number = "bfloat16" if case.device == "cuda" else "float32"
    request = MemoryRequest(
        shape=ModelShape.from_config(config),
        length=case.length,
        weight_format=number,  # type: ignore[arg-type]
        compute_format=number,  # type: ignore[arg-type]
        lora_rank=RANK,
        checkpointing=case.recompute,
        loss_chunk=None,
        keeps_freed=case.device == "cpu",
        runtime_bytes=held,
    )
    return forecast(request)


def our_forecast(case: Case, job: ResolvedJob, held: int) -> MemoryForecast:
    """The pipeline's own plan for a machine with the case's limit as its free memory."""
    gib = case.limit_bytes / GIB
    machine = HardwareProfile(total_vram_gb=gib, gpu_count=int(case.device == "cuda"), ram_free_gb=gib)
    return forecast(memory_request(job, job.rungs[0], machine, held))


def limit_memory(case: Case) -> None:
    """Make an allocation beyond the limit fail: private memory of the process (RLIMIT_DATA), or the device's allocator."""
    if case.device == "cuda":
        import torch

        torch.cuda.set_per_process_memory_fraction(min(1.0, case.limit_bytes / torch.cuda.get_device_properties(0).total_memory))
        return
    resource.setrlimit(resource.RLIMIT_DATA, (case.limit_bytes, case.limit_bytes))


def step_clock() -> Any:
    """A Trainer callback whose `ends` are the times at which steps ended."""
    from transformers import TrainerCallback

    class StepClock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.ends.append(time.perf_counter())

    return StepClock()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out; torch's CPU allocator raises a plain RuntimeError."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words or "bad_alloc" in words


def main(argv: list[str]) -> int:
    """Measure the case in `argv[0]` and print the outcome as JSON; `outcome` is `done` or `out of memory`."""
    case = Case(**json.loads(argv[0]))
    with tempfile.TemporaryDirectory() as scratch:
        try:
            found = {"outcome": "done", **measure(case, Path(scratch))}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            found = {"outcome": "out of memory", "reason": str(error).splitlines()[0][:200]}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
