"""The dataset URI grammar: a pure parser, no file or network access.

    local://<relative or absolute path>[?split=&text_field=]
    hf://<owner>/<name>[@revision][/config][?split=train&text_field=]
    synthetic://<longform|retrieval_qa|code|mixed>[?n=&seed=]

The scheme is cut off as text: a URL parser would take `data` in `local://data/x.jsonl` for a host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal
from urllib.parse import unquote

from modelwright.errors import UsageError

SCHEMES = ("hf", "local", "synthetic")
SYNTHETIC_KINDS = ("longform", "retrieval_qa", "code", "mixed")
DEFAULT_SYNTHETIC_COUNT = 256
DEFAULT_SEED = 42
_OPTIONS = {"local": ("split", "text_field"), "hf": ("split", "text_field"), "synthetic": ("n", "seed")}
_HUB = re.compile(r"^(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<config>[\w.-]+))?$")


@dataclass(frozen=True)
class DatasetReference:
    """A parsed dataset URI. `identifier` is the path, the `owner/name` or the synthetic kind; unused options stay
    None.
    """

    uri: str
    scheme: Literal["hf", "local", "synthetic"]
    identifier: str
    split: str | None = None
    text_field: str | None = None
    revision: str | None = None
    config: str | None = None
    n: int | None = None
    seed: int | None = None


def parse_reference(uri: str) -> DatasetReference:
    """Parse a dataset URI. Raises UsageError saying what was found and what is allowed; does not look whether the data
    exist.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in SCHEMES:
        found = f"the scheme {scheme!r}" if separator else f"{uri!r} without a scheme"
        raise UsageError(
            f"The dataset has {found}; allowed are hf://, local:// and synthetic://, for example local://data/instruction.jsonl."
        )
    # A file name may hold a question mark; only a tail that looks like options is one.
    body, _, query = rest.partition("?")
    if not body:
        raise UsageError(f"The dataset {uri!r} names nothing after {scheme}://.")
    options = _options(uri, scheme, query)
    if scheme == "local":
        return DatasetReference(uri, "local", body, split=options.get("split"), text_field=options.get("text_field"))
    if scheme == "hf":
        return _hub_reference(uri, body, options)
    return _synthetic_reference(uri, body, options)


def _options(uri: str, scheme: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        if name not in _OPTIONS[scheme]:
            near = get_close_matches(name, _OPTIONS[scheme], n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UsageError(f"The dataset {uri!r} has the option {name!r}{hint}; {scheme}:// takes {' and '.join(_OPTIONS[scheme])}.")
        if not equals or not value:
            raise UsageError(f"The dataset {uri!r} gives the option {name!r} no value; write {name}=<value>.")
        options[name] = unquote(value)
    return options


def _hub_reference(uri: str, body: str, options: dict[str, str]) -> DatasetReference:
    match = _HUB.match(body)
    if match is None:
        raise UsageError(f"The dataset {uri!r} does not name a hub dataset; the form is hf://owner/name[@revision][/config][?split=train].")
    return DatasetReference(
        uri,
        "hf",
        match["name"],
        split=options.get("split", "train"),
        text_field=options.get("text_field"),
        revision=match["revision"],
        config=match["config"],
    )


def _synthetic_reference(uri: str, kind: str, options: dict[str, str]) -> DatasetReference:
    if kind not in SYNTHETIC_KINDS:
        raise UsageError(f"The dataset {uri!r} asks for the synthetic kind {kind!r}; allowed are {', '.join(SYNTHETIC_KINDS)}.")
    n = _integer(uri, "n", options.get("n"), DEFAULT_SYNTHETIC_COUNT, minimum=1)
    seed = _integer(uri, "seed", options.get("seed"), DEFAULT_SEED, minimum=0)
    return DatasetReference(uri, "synthetic", kind, n=n, seed=seed)


def _integer(uri: str, name: str, value: str | None, default: int, minimum: int) -> int:
    if value is None:
        return default
    if not re.fullmatch(r"\d+", value) or int(value) < minimum:
        raise UsageError(f"The dataset {uri!r} has {name}={value}; a whole number of at least {minimum} is needed.")
    return int(value)
