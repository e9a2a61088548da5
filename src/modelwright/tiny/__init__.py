"""The tiny reference models: a small Llama family that really predicts text, really retrieves inside its window and
really fails beyond it.

`modelwright models make-tiny` trains them; the trained weights lie beside this file. Nothing here imports torch.
"""

from __future__ import annotations

from pathlib import Path

from modelwright.errors import LoadError

PREFIX = "modelwright/"
TINY_NAMES = ("tiny-0.4m", "tiny-1.5m", "tiny-5m")


def weights_folder() -> Path:
    """The folder of the package that holds one folder per trained model."""
    return Path(__file__).with_name("weights")


def tiny_model_path(name: str) -> Path:
    """The folder of a packaged model, by `modelwright/tiny-1.5m` or `tiny-1.5m`.

    Raises LoadError for a name that is not one of the family, or when its weights are missing from this installation.
    """
    short = name.removeprefix(PREFIX)
    if short not in TINY_NAMES:
        raise LoadError(f"There is no packaged model {name!r}; allowed are {', '.join(PREFIX + known for known in TINY_NAMES)}.")
    folder = weights_folder() / short
    if not (folder / "model.safetensors").is_file():
        size = short.removeprefix("tiny-")
        raise LoadError(
            f"The weights of {name} are not in this installation ({folder}); train them by `modelwright models make-tiny --size {size}`."
        )
    return folder
