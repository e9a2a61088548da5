"""`scaler_wizard.load`: an exported run back as a model that reads its whole new context.

Adapter files do not carry RoPE parameters, so loading them on the plain base silently gives the short context back.
This loader sets the RoPE parameters first, from `model/config.json` of the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelwright.errors import LoadError, MissingFileError
from modelwright.files import read_json, read_yaml

CONFIG_KEYS = ("rope_parameters", "max_position_embeddings", "context_extension")


def load(
    run_dir: str | Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    merged: bool | None = None,
    offline: bool = False,
) -> tuple[Any, Any]:
    """Model and tokenizer of a finished run, in eval mode.

    `merged` True takes the merged weights of `model/`, False the base with adapters, None whichever the run exported
    (merged first). `dtype` is float32, bfloat16 or float16.

    Raises LoadError when the run exported nothing, or its base model cannot be found.
    """
    run = Path(run_dir)
    config_path = run / "model" / "config.json"
    if not config_path.is_file():
        raise LoadError(f"{run} holds no model/config.json: the run has not been exported. Resume it, or give a finished run.")
    has_merged = any((run / "model").glob("*.safetensors"))
    if merged is True and not has_merged:
        raise LoadError(f"{run} holds no merged weights. Run it with --merge, or load it with its adapters (merged=False).")
    if has_merged and merged is not False:
        return _load_merged(run, dtype, device)
    return _load_adapted(run, dtype, device, offline)


def _load_merged(run: Path, dtype: str, device: str) -> tuple[Any, Any]:
    from modelwright.loading import load_model, load_tokenizer, resolve_model

    source = resolve_model(str(run / "model"))
    return load_model(source, dtype=dtype, device=device), load_tokenizer(resolve_model(str(run / "model")))


def _load_adapted(run: Path, dtype: str, device: str, offline: bool) -> tuple[Any, Any]:
    from transformers import AutoTokenizer

    from modelwright.loading import load_model, resolve_model
    from scaler_wizard import strategies

    config = read_json(run / "model" / "config.json")
    settings = read_yaml(run / "config.resolved.yaml")
    base = base_reference(run, str(settings["model"]["base_model"]))
    source = resolve_model(base, revision=settings["model"].get("revision"), offline=offline)
    model = load_model(
        source,
        dtype=dtype,
        device=device,
        rope_parameters=config.get("rope_parameters"),
        max_position_embeddings=config.get("max_position_embeddings"),
    )
    if "context_extension" in config:
        model.config.context_extension = config["context_extension"]
    rows = int(config["vocab_size"])
    if rows != model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)  # the new rows are among the trained weights
    adapters = run / "adapters"
    if not adapters.is_dir():
        raise LoadError(f"{run} holds no adapters/: the export is incomplete. Resume the run.")
    model = strategies.get(str(settings["scaling"]["strategy"])).load(model, adapters)
    return model.eval(), AutoTokenizer.from_pretrained(str(run / "tokenizer"), local_files_only=True)


def base_reference(run: Path, base_model: str) -> str:
    """The base model as given to the run; a relative folder that is not found from here is looked up from where the run
    began.
    """
    if Path(base_model).is_absolute() or (Path(base_model) / "config.json").is_file():
        return base_model
    try:
        began = Path(str(read_json(run / "run.json")["cwd"]))
    except (MissingFileError, KeyError):
        return base_model
    return str(began / base_model) if (began / base_model / "config.json").is_file() else base_model
