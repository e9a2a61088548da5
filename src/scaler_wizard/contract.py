"""The human contract: no run starts without a person's recorded consent.

    python -m scaler_wizard.contract template > config/human_contract.yaml     a form to fill in
    python -m scaler_wizard.contract show     [FILE]                           its fields
    python -m scaler_wizard.contract verify   [FILE] [--config-sha256 HEX]     accept or refuse, exit 0 or 3

Checked here: the version, the exact sign-off, every required field, times, and, where the contract states them, the config
digest and the scope. Signatures are not part of this version: a `signature` field is kept with the run and reported as not
verified. An accepted contract gives a token, and without one no pipeline can be built.
"""

from __future__ import annotations

import hmac
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.errors import ModelwrightError

if TYPE_CHECKING:
    from scaler_wizard.resolved import ResolvedJob

CONTRACT_VERSION = "1.0.0"
SIGNOFF = "I accept responsibility for this run"
REQUIRED = ("contract_version", "authorized_by", "approved_at", "session_id", "scope", "rollback_plan", "signoff")
OPTIONAL = ("expires_at", "config_sha256", "approvers", "signature")
CLOCK_SKEW = timedelta(minutes=5)
DEFAULT_FILE = "config/human_contract.yaml"
COPY_NAME = "human_contract.yaml"
_PROCESS_SECRET = secrets.token_bytes(32)  # seals tokens of this process; never written anywhere


class ContractNotAcceptedError(ModelwrightError):
    """The contract is refused (exit 3). `field` is the first failing field, `fields` all of them."""

    exit_code = 3

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.fields = tuple(name for name, _ in problems)
        self.field = self.fields[0]
        super().__init__("\n".join(f"The contract is not accepted: {name}: {reason}." for name, reason in problems))


class ContractMissingError(ContractNotAcceptedError):
    """There is no contract at all; a dry run only warns about it."""


@dataclass(frozen=True)
class Contract:
    """A contract whose fields passed `check_fields`. `document` is all of it; `origin` the file, or None for a job's section."""

    document: Mapping[str, Any]
    origin: Path | None
    text: str
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """SHA-256 of the canonical JSON of the whole document."""
        from modelwright.files import sha256_json

        return sha256_json(_plain(self.document))

    @property
    def scope(self) -> Mapping[str, Any]:
        """The structured scope; empty when the scope is free text."""
        scope = self.document["scope"]
        return scope if isinstance(scope, Mapping) else {}

    @property
    def max_context(self) -> int | None:
        """Longest context in tokens that the scope allows without asking, or None when it says nothing."""
        return self.scope.get("max_context")

    def covers(self, length: int) -> bool:
        """Whether a rung of `length` tokens lies inside the signed scope."""
        return self.max_context is None or length <= self.max_context

    def payload(self) -> dict[str, Any]:
        """The `humanContract` part of a cockpit payload."""
        return {
            "version": str(self.document["contract_version"]),
            "authorizedBy": str(self.document["authorized_by"]),
            "signed": True,
            "signoff": SIGNOFF,
            "approvedAt": _plain(self.document["approved_at"]),
            "rollbackPlan": str(self.document["rollback_plan"]),
        }


@dataclass(frozen=True)
class AcceptanceToken:
    """Proof that a contract was accepted for one run: a random 128-bit id bound to run id and contract digest."""

    token: str
    run_id: str
    contract_sha256: str
    seal: str = field(repr=False)

    def require(self, run_id: str) -> None:
        """Raise ContractNotAcceptedError unless this token was issued by this process for `run_id`."""
        expected = _seal(self.token, self.run_id, self.contract_sha256)
        if not hmac.compare_digest(expected, self.seal) or not hmac.compare_digest(self.run_id, run_id):
            raise ContractNotAcceptedError([("token", f"it was not issued for the run {run_id}")])


@dataclass(frozen=True)
class AcceptedContract:
    """A contract that was verified against a job; issues the token once the run has an id."""

    contract: Contract
    config_sha256: str

    def token(self, run_id: str) -> AcceptanceToken:
        """The approval token that `Pipeline` asks for."""
        identifier = secrets.token_hex(16)
        digest = self.contract.sha256
        return AcceptanceToken(identifier, run_id, digest, _seal(identifier, run_id, digest))

    def write_copy(self, run_dir: Path) -> Path:
        """Write the contract actually used to `human_contract.yaml` in the run directory, byte for byte."""
        from modelwright.files import write_text

        path = run_dir / COPY_NAME
        write_text(path, self.contract.text)
        return path


def _seal(token: str, run_id: str, digest: str) -> str:
    return hmac.new(_PROCESS_SECRET, f"{token}\0{run_id}\0{digest}".encode(), "sha256").hexdigest()


# ---------------------------------------------------------------------- reading and checking


def find(path: Path, section: Mapping[str, Any] | None = None, now: datetime | None = None) -> Contract:
    """The contract of a job: its own `contract` section when it has one, else the file at `path`; its fields are checked.

    Raises ContractMissingError when there is neither, ContractNotAcceptedError when a field fails.
    """
    if section is not None:
        document = {("contract_version" if name == "version" else name): value for name, value in section.items() if value is not None}
        return check_fields(document, now=now)
    if not path.is_file():
        reason = f"there is no file {path}; write one with `python -m scaler_wizard.contract template`"
        raise ContractMissingError([("contract", reason)])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ContractNotAcceptedError([("contract", f"{path} cannot be read ({error})")]) from error
    return check_fields(_parse(text, path), origin=path, text=text, now=now)


def _parse(text: str, path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ContractNotAcceptedError([("contract", f"{path} is not YAML ({' '.join(str(error).split())})")]) from error
    if not isinstance(document, Mapping):
        raise ContractNotAcceptedError([("contract", f"{path} holds {type(document).__name__}, a mapping of its fields is needed")])
    return document


def check_fields(
    document: Mapping[str, Any], *, origin: Path | None = None, text: str | None = None, now: datetime | None = None
) -> Contract:
    """Check version, sign-off, required fields and times; needs neither hardware nor model.

    Raises ContractNotAcceptedError naming every field that fails.
    """
    moment = now or datetime.now(UTC)
    problems = [(name, "it is missing") for name in REQUIRED if _empty(document.get(name))]
    missing = {name for name, _ in problems}
    version = document.get("contract_version")
    if "contract_version" not in missing and str(version) != CONTRACT_VERSION:
        problems.append(("contract_version", f"found {version}, this version expects {CONTRACT_VERSION}"))
    if "signoff" not in missing and document["signoff"] != SIGNOFF:
        problems.append(("signoff", f"found {document['signoff']!r}, it must read exactly {SIGNOFF!r}"))
    for name in ("authorized_by", "session_id", "rollback_plan"):
        if name not in missing and not isinstance(document[name], str):
            problems.append((name, f"found {document[name]!r}, a text is needed"))
    if "approved_at" not in missing:
        problems += _time_problems(document, moment)
    if "scope" not in missing:
        problems += _scope_problems(document["scope"])
    unknown = sorted(str(name) for name in document if name not in REQUIRED and name not in OPTIONAL)
    problems += [(name, f"it is unknown; fields are {', '.join((*REQUIRED, *OPTIONAL))}") for name in unknown]
    if problems:
        raise ContractNotAcceptedError(problems)
    return Contract(dict(document), origin, text if text is not None else _dump(document), check_signature(document))


def check_signature(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Remarks about the signature. This version cannot verify one and says so; the place where it will be checked is here."""
    if document.get("signature"):
        return ("the contract carries a signature; this version does not verify signatures",)
    return ()


def _time_problems(document: Mapping[str, Any], now: datetime) -> list[tuple[str, str]]:
    problems = []
    approved = _moment(document["approved_at"])
    if approved is None:
        problems.append(("approved_at", f"found {document['approved_at']!r}, an ISO date and time is needed, e.g. 2024-05-26T18:42:00Z"))
    elif approved > now + CLOCK_SKEW:
        problems.append(("approved_at", f"{document['approved_at']} lies in the future"))
    if not _empty(document.get("expires_at")):
        expires = _moment(document["expires_at"])
        if expires is None:
            problems.append(("expires_at", f"found {document['expires_at']!r}, an ISO date and time is needed"))
        elif expires + CLOCK_SKEW < now:
            problems.append(("expires_at", f"the contract expired at {document['expires_at']}"))
    return problems


def _scope_problems(scope: object) -> list[tuple[str, str]]:
    if isinstance(scope, str):
        return []
    if not isinstance(scope, Mapping):
        return [("scope", f"found {scope!r}, a text or a mapping is needed")]
    length = scope.get("max_context")
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
        return [("scope.max_context", f"found {length!r}, a length in tokens is needed")]
    return []


def verify(contract: Contract, job: ResolvedJob) -> AcceptedContract:
    """Check what the contract says about this job: its config digest and its scope, each where it is stated.

    Raises ContractNotAcceptedError naming the field.
    """
    problems = []
    stated = contract.document.get("config_sha256")
    if stated and not hmac.compare_digest(str(stated), job.config_sha256):
        problems.append(
            (
                "config_sha256",
                f"it consents to the config {str(stated)[:12]}…, this run's is {job.config_sha256[:12]}…: something was changed since; "
                "restore it, or consent to the new digest",
            )
        )
    scope = contract.scope
    model = scope.get("base_model") or scope.get("model")
    if model and str(model) != job.model.base_model:
        problems.append(("scope.base_model", f"it covers {model}, this run uses {job.model.base_model}"))
    datasets = scope.get("datasets") or scope.get("dataset")
    allowed = [str(item) for item in ([datasets] if isinstance(datasets, str) else datasets or [])]
    if allowed and job.dataset.reference not in allowed:
        problems.append(("scope.datasets", f"it covers {', '.join(allowed)}, this run uses {job.dataset.reference}"))
    if problems:
        raise ContractNotAcceptedError(problems)
    return AcceptedContract(contract, job.config_sha256)


def _empty(value: object) -> bool:
    return value is None or value == "" or value == {}


def _moment(value: object) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return None


def _plain(value: Any) -> Any:
    """`value` with dates as ISO text (UTC with Z), for JSON."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    return value.isoformat() if isinstance(value, date) else value


def _dump(document: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(_plain(document), sort_keys=False, allow_unicode=True)


# ---------------------------------------------------------------------- the form


def template(
    *,
    config_sha256: str = "",
    base_model: str = "",
    dataset: str = "",
    max_context: int | None = None,
    authorized_by: str = "",
    signoff: str = "",
    now: datetime | None = None,
) -> str:
    """The text of a contract to fill in; fields that are known are filled in already, the sign-off never by itself."""
    moment = (now or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    rows = [f"  base_model: {_quoted(base_model)}"] if base_model else []
    rows += ["  datasets:", f"    - {_quoted(dataset)}"] if dataset else []
    rows += [f"  max_context: {max_context or 2048}   # tokens; a longer rung asks first", "  duration: one run"]
    scope = "\n".join(rows)
    digest = f"config_sha256: {config_sha256}   # what a dry run printed" if config_sha256 else "# config_sha256: what a dry run printed"
    return f"""\
# Human contract. A run starts only when a person has filled this in. Nothing fills in the sign-off for you.
contract_version: {CONTRACT_VERSION}
authorized_by: {_quoted(authorized_by)}   # your name
approved_at: {moment}
session_id: {secrets.token_hex(8)}   # ties the consent to one job
scope:
{scope}
rollback_plan: phase_0   # the state to go back to when something goes wrong
{digest}
# The sign-off must read exactly: {SIGNOFF}
signoff: {_quoted(signoff)}
"""


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python -m scaler_wizard.contract`."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m scaler_wizard.contract",
        description="Write, show or check a human contract. Signing is not part of this version.",
        epilog="example: mkdir -p config && python -m scaler_wizard.contract template > config/human_contract.yaml",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    form = commands.add_parser("template", help="print a contract to fill in")
    form.add_argument("--config-sha256", default="", help="the digest that a dry run printed")
    form.add_argument("--base-model", default="")
    form.add_argument("--dataset", default="")
    form.add_argument("--max-context", type=int, default=None, help="tokens")
    for name, text in (("show", "print the fields of a contract"), ("verify", "accept or refuse a contract")):
        command = commands.add_parser(name, help=text)
        command.add_argument("file", nargs="?", default=DEFAULT_FILE)
        if name == "verify":
            command.add_argument("--config-sha256", default="", help="digest the contract must consent to")
    given = parser.parse_args(argv)
    if given.command == "template":
        known = {"base_model": given.base_model, "dataset": given.dataset, "max_context": given.max_context}
        print(template(config_sha256=given.config_sha256, **known), end="")
        return 0
    try:
        return _show_or_verify(given)
    except ContractNotAcceptedError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _show_or_verify(given: Any) -> int:
    path = Path(given.file)
    if given.command == "show":
        if not path.is_file():
            find(path)
        for name, value in _parse(path.read_text(encoding="utf-8"), path).items():
            print(f"{name}: {_plain(value)}")
        return 0
    contract = find(path)
    stated = str(contract.document.get("config_sha256") or "")
    if given.config_sha256 and stated != given.config_sha256:
        raise ContractNotAcceptedError([("config_sha256", f"found {stated or 'nothing'}, expected {given.config_sha256}")])
    print(f"Accepted: {contract.document['authorized_by']} for session {contract.document['session_id']} ({contract.sha256}).")
    for note in contract.notes:
        print(f"Note: {note}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
