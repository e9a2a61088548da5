"""The text the tiny models read: the source of the running interpreter's own standard library.

Every Python installation carries it, so the data needs no download. The same interpreter version gives the same files,
hence the same split, the same digest and the same training data. Left out are files that depend on the machine
(`_sysconfigdata*`), tables (`encodings`), installed packages and test suites.
"""

from __future__ import annotations

import hashlib
import platform
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_ONE_IN = 20
_SKIPPED_DIRECTORIES = frozenset(
    {
        "site-packages",
        "dist-packages",
        "__pycache__",
        "test",
        "tests",
        "idle_test",
        "encodings",
        "lib-dynload",
        "lib2to3",
        "turtledemo",
    }
)
_SKIPPED_PREFIXES = ("_sysconfigdata", "config-")


@dataclass(frozen=True)
class SourceFile:
    """One file of the corpus: its posix path relative to the library's root, and its text."""

    path: str
    text: str


@dataclass(frozen=True, repr=False)
class Corpus:
    """The two halves of the corpus, both sorted by path, and what identifies them.

    `digest` is the SHA-256 over the paths and contents of all files, train and held-out.
    """

    train: tuple[SourceFile, ...]
    held_out: tuple[SourceFile, ...]
    digest: str
    interpreter: str

    @property
    def train_bytes(self) -> int:
        """Size of the training half in UTF-8 bytes."""
        return sum(len(file.text.encode()) for file in self.train)

    @property
    def held_out_bytes(self) -> int:
        """Size of the held-out half in UTF-8 bytes."""
        return sum(len(file.text.encode()) for file in self.held_out)


def is_held_out(path: str) -> bool:
    """Whether the file with this relative posix path belongs to the held-out split: one in twenty, by a hash of the
    path alone.
    """
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big") % HELD_OUT_ONE_IN == 0


def standard_library() -> Path:
    """The directory of the running interpreter's pure Python standard library."""
    return Path(sysconfig.get_path("stdlib"))


def load_corpus(root: Path | None = None) -> Corpus:
    """Read the corpus from `root` (default: the running interpreter's standard library).

    Raises FileNotFoundError when `root` holds no readable Python source on either side of the split, which happens
    with interpreters shipped as a zip file.
    """
    base = standard_library() if root is None else root
    files = tuple(_read_files(base))
    train = tuple(file for file in files if not is_held_out(file.path))
    held_out = tuple(file for file in files if is_held_out(file.path))
    if not train or not held_out:
        raise FileNotFoundError(
            f"{base} holds {len(files)} Python source files, too few for a training and a held-out half; "
            "use an interpreter whose standard library is installed as source"
        )
    return Corpus(train=train, held_out=held_out, digest=_digest(files), interpreter=platform.python_version())


def _read_files(base: Path) -> Iterable[SourceFile]:
    for path in sorted(base.rglob("*.py"), key=lambda found: found.relative_to(base).as_posix()):
        relative = path.relative_to(base)
        if _SKIPPED_DIRECTORIES.intersection(relative.parts) or relative.parts[0].startswith(_SKIPPED_PREFIXES):
            continue
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:  # a few files declare another encoding; they are no loss
            continue
        if text.strip():
            yield SourceFile(path=relative.as_posix(), text=text.replace("\r\n", "\n"))


def _digest(files: Iterable[SourceFile]) -> str:
    digest = hashlib.sha256()
    for file in files:
        for part in (file.path, file.text):
            data = part.encode()
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
    return digest.hexdigest()
