"""`modelwright demo`: the main job on a real small model, with real text, in minutes on two processors.

The tiny reference model reads 512 tokens and is lost beyond. The demo writes training text, writes and shows the consent it
runs under, runs the ordinary command (`python -m scaler_wizard.cli …`, printed so that it can be typed by hand), and then asks
the exported model for a pass key at 2048 tokens through plain transformers. An interrupted demo goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any

EXAMPLE = "example: modelwright demo --output-dir runs/demo"
EXIT_CODES = "exit codes: those of `modelwright scale`; 0 done, 2 the folder holds something else, 9 paused"


@dataclass(frozen=True)
class Recipe:
    """What the demo trains: lengths in tokens, steps per rung, tokens per optimizer step.

    The learning rate falls to 0 within every rung, which keeps the short context, so its peak can be high.
    """

    base_model: str = "modelwright/tiny-1.5m"
    base_context: int = 512
    schedule: tuple[int, ...] = (1024, 2048)
    steps: tuple[int, ...] = (4, 12, 68)  # per rung: base, then the schedule
    batch_tokens: int = 8192
    learning_rate: float = 9e-4
    lr_scheduler: str = "cosine"
    warmup_steps: int = 6
    lora_rank: int = 16
    lora_alpha: int = 32
    probe_samples: int = 33
    source_rows: int = 300
    source_per_recall: int = 1
    recall_rows: int = 150
    piece_characters: int = 9000
    seed: int = 42

    @property
    def target(self) -> int:
        return self.schedule[-1]

    @property
    def rung_steps(self) -> list[tuple[int, int]]:
        """(length, steps) of every rung."""
        return list(zip((self.base_context, *self.schedule), self.steps, strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="modelwright demo",
        description=(__doc__ or "").split("\n\n", 1)[1],
        epilog=f"{EXAMPLE}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output-dir", default="runs/demo", metavar="DIR", help="where everything goes (runs/demo)")
    parser.add_argument("--fresh", action="store_true", help="start again in DIR-2, DIR-3, … when DIR holds a finished demo")
    given = parser.parse_args(argv)
    folder = Path(given.output_dir)
    if given.fresh:
        folder = _next_free(folder)
    started = time.monotonic()
    code = run_demo(folder, Recipe())
    if code == 0:
        print(f"\nThe demo took {(time.monotonic() - started) / 60:.1f} minutes.")
    return code


def run_demo(folder: Path, recipe: Recipe) -> int:
    """Data, consent, run, proof. `folder` receives `data/`, `human_contract.yaml` and the run directory `run/`."""
    from modelwright.errors import UsageError
    from scaler_wizard import cli

    run = folder / "run"
    state = _run_status(run)
    if state == "completed":
        print(f"{run} holds a finished demo; `modelwright demo --fresh` runs another beside it.")
        show(run, recipe)
        return 0
    if folder.exists() and state is None and any(folder.iterdir()) and not (folder / "data").is_dir():
        raise UsageError(f"--output-dir: found {folder} with other files in it; allowed: a new folder or one of an earlier demo.")
    if state is None:
        _say(f"1  Training text: the source of this Python's own library, and made-up questions, in {folder / 'data'}")
        write_data(folder / "data", recipe)
        _say(f"2  Your consent, in {folder / 'human_contract.yaml'} (the demo fills it in for itself; a real run asks you to)")
        print(write_contract(folder, recipe))
    else:
        _say(f"An earlier demo in {folder} was interrupted ({state}); it goes on.")
    arguments = command_arguments(folder, recipe) + (["--resume"] if state is not None else [])
    _say("3  The run. The same by hand:")
    print(f"   $ modelwright scale {shlex.join(arguments)}\n")
    code = cli.main(arguments)
    if code == 0:
        show(run, recipe)
    return code


def command_arguments(folder: Path, recipe: Recipe) -> list[str]:
    """The arguments of `python -m scaler_wizard.cli` that make the demo's run."""
    return [
        *("--base-model", recipe.base_model),
        *("--dataset", dataset_uri(folder)),
        *("--target-context", str(recipe.target)),
        *("--context-schedule", ",".join(str(length) for length in recipe.schedule)),
        *("--context-method", "yarn"),
        *("--template", "budget_context"),
        *("--lora-rank", str(recipe.lora_rank)),
        *("--lora-alpha", str(recipe.lora_alpha)),
        *("--lora-dropout", "0"),
        *("--train-embeddings", "on"),
        *(part for length, steps in recipe.rung_steps for part in ("--set", f"training.rungs.{length}.steps={steps}")),
        *("--learning-rate", str(recipe.learning_rate)),
        *("--set", f"training.lr_scheduler={recipe.lr_scheduler}"),
        *("--set", f"training.warmup_steps={recipe.warmup_steps}"),
        *("--batch-tokens", str(recipe.batch_tokens)),
        *("--probe-samples", str(recipe.probe_samples)),
        *("--seed", str(recipe.seed)),
        *("--contract", str(folder / "human_contract.yaml")),
        *("--output-dir", str(folder / "run")),
        "--merge",
        "--offline",
    ]


def dataset_uri(folder: Path) -> str:
    """The demo's dataset reference: a folder of JSON Lines."""
    return f"local://{folder / 'data'}"


def write_data(data: Path, recipe: Recipe) -> None:
    """Long pieces of library source and long recall rows, in turn, as `{"text": …}` lines of `training.jsonl`.

    The probe's wording and keys are in neither. A piece of source fills at least one target window.
    """
    from modelwright.files import write_text
    from modelwright.loading import load_tokenizer, resolve_model
    from modelwright.tiny.corpus import load_corpus
    from modelwright.tiny.rows import write_recall_rows

    data.mkdir(parents=True, exist_ok=True)
    tokenizer: Any = load_tokenizer(resolve_model(recipe.base_model, offline=True))
    part = write_recall_rows(data / ".recall.jsonl", recipe.recall_rows, recipe.target, tokenizer, recipe.seed)
    recall_lines = part.read_text(encoding="utf-8").splitlines()
    part.unlink()
    pieces = [piece for file in load_corpus().train for piece in pieces_of(file.text, recipe.piece_characters)]
    Random(recipe.seed).shuffle(pieces)
    source_lines = [json.dumps({"text": piece}, ensure_ascii=False) for piece in pieces[: recipe.source_rows]]
    turns = zip_longest(*(source_lines[i :: recipe.source_per_recall] for i in range(recipe.source_per_recall)), recall_lines)
    write_text(data / "training.jsonl", "".join(f"{line}\n" for turn in turns for line in turn if line is not None))


def pieces_of(text: str, size: int) -> list[str]:
    """Whole pieces of `size` characters, each beginning at a line; the rest of the text is left out."""
    pieces, start = [], 0
    while len(text) - start >= size:
        pieces.append(text[start : start + size])
        start = text.find("\n", start + size) + 1 or len(text)
    return pieces


def write_contract(folder: Path, recipe: Recipe) -> str:
    """Write a contract that covers this demo and nothing else; returns its text."""
    from modelwright.files import write_text
    from scaler_wizard.contract import SIGNOFF, template

    text = template(
        base_model=recipe.base_model,
        dataset=dataset_uri(folder),
        max_context=recipe.target,
        authorized_by="modelwright demo, started by you",
        signoff=SIGNOFF,
    )
    write_text(folder / "human_contract.yaml", text)
    return text


def show(run: Path, recipe: Recipe) -> None:
    """Before and after as a table, one question answered by plain transformers, and what to type next."""
    from scaler_wizard.report import load_results, summary_table

    _say("4  Before and after")
    print(summary_table(load_results(run)))
    _say(f"5  The exported model, loaded by plain transformers, is asked for a pass key at {recipe.target} tokens")
    print(ask_exported_model(run / "model", recipe.target))
    _say("Next")
    print(f"   open the report      {run / 'report.html'}")
    print(f"   look at the run      modelwright runs show {run}")
    print(f"   use the model        transformers.AutoModelForCausalLM.from_pretrained({str(run / 'model')!r})")
    print("   your own model       modelwright scale --help")


def ask_exported_model(model_dir: Path, length: int) -> str:
    """The end of a passkey prompt of `length` tokens and what `generate` answers, as plain transformers gives it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from modelwright.probes.passkey import Passkey

    tokenizer = AutoTokenizer.from_pretrained(str(model_dir))
    model = AutoModelForCausalLM.from_pretrained(str(model_dir), dtype=torch.float32).eval()
    item = Passkey().build(tokenizer, length, 1, seed=7)[0]
    prompt = torch.tensor([list(item.input_ids)])
    output = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)
    answer = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
    ending = tokenizer.decode(item.input_ids[-24:])
    return f"   prompt of {prompt.shape[1]} tokens, ending: …{ending!r}\n   answer: {answer!r}   (hidden key: {item.answer})"


def _run_status(run: Path) -> str | None:
    """Status of the run in `run`, None when there is none."""
    from modelwright.files import read_json

    record = run / "run.json"
    return str(read_json(record)["status"]) if record.exists() else None


def _next_free(folder: Path) -> Path:
    number, candidate = 2, folder
    while candidate.exists():
        candidate = folder.with_name(f"{folder.name}-{number}")
        number += 1
    return candidate


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)
