"""`config.json`: the settings of the installation as a whole, their ranges, and the one way to edit them. (specs/guild.md 2.1.1, 4.12)

Three of its fields are locked once there are checkpoints (G3), and none changes while training runs (G4). An absent file is all
defaults; keys that begin with `_` are remarks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from guild.campaigns.activation import refuse_while_training
from guild.campaigns.campaign import campaigns_lock
from guild.campaigns.checkpoints import any_checkpoint
from guild.campaigns.config_lock import log_change
from guild.campaigns.heroes import Accumulation, BatchSize, Count, LearningRate, LoraRank, MaxLength, Positive, ProfileName, Share
from guild.campaigns.layers import deep_merge
from guild.campaigns.pointer import active_key
from guild.errors import RefusedError
from guild.places import Places
from guild.validation.policy import Policy
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.config import Layer, resolve
from modelwright.errors import ConfigError, DamagedFileError, Fault, UsageError
from modelwright.files import make_folder, read_json, write_json

TINY = "modelwright/tiny-"
LOCKED_FIELDS = ("model_name", "base_model", "max_length")
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0)]
AboveZero = Annotated[float, Field(gt=0)]
_STRICT = ConfigDict(frozen=True, extra="forbid")


class AutoGenerate(BaseModel):
    """When the queue runs low. `count` and `priority` must be there once it is enabled. (specs/guild.md 2.4)

    host, port: the original's; they are read and decide nothing, since every skill has an address of its own (its service in
    `config/hosts.json`, else `api.url` of its file).
    """

    model_config = _STRICT

    enabled: bool = False
    count: Positive | None = None
    priority: Literal["high", "normal", "low"] | None = None
    threshold: Count = 0
    cooldown_sec: Seconds = 180.0
    host: str | None = None
    port: Port | None = None
    min_queue_depth: Count = 2

    @model_validator(mode="after")
    def _complete(self) -> Self:
        missing = [name for name in ("count", "priority") if getattr(self, name) in (None, "")]
        if self.enabled and missing:
            raise ValueError(f"auto_generate with {', '.join(missing)} as well, since it is enabled")
        return self


class SelfCorrection(BaseModel):
    """Correction rows out of the model's mistakes."""

    model_config = _STRICT

    enabled: bool = False
    auto_queue: bool = False
    max_examples: Count = 1000
    generation_interval: Count = 1000


class RemoteEval(BaseModel):
    """Evaluations on the inference host."""

    model_config = _STRICT

    enabled: bool = False
    host: str = ""
    port: Port = 8765
    remote_user: str = ""
    remote_models_dir: str = ""
    eval_dataset: str = ""
    eval_interval_steps: Positive = 5000
    sync_checkpoints: bool = False
    metrics: tuple[str, ...] = ()


class CurriculumSection(BaseModel):
    """What a level needs to be mastered."""

    model_config = _STRICT

    enabled: bool = True
    target_accuracy: Annotated[float, Field(gt=0, le=1)] = 0.8
    current_skill: str = ""
    progression_mode: str = "mastery"


class RetentionSection(BaseModel):
    """Deleting old checkpoints and snapshots. cap_gb: of all together. min_age_hours: younger ones stay. (specs/guild.md 2.8.4)"""

    model_config = _STRICT

    enabled: bool = True
    cap_gb: AboveZero = 150.0
    min_age_hours: Annotated[float, Field(ge=1)] = 36.0


class WatchdogSection(BaseModel):
    """When a trainer that lives and makes no step is ended and begun anew (`guild.loop.watchdog`). (specs/guild.md G11)

    check_every_s: seconds between two looks. step_limit_s: longest time without a step. evaluating_limit_s: longest measurement on
    held-out rows, and longest time in which it begins none of the files that wait. restarts: most within `window_s` seconds, and most
    of one file without a saved step between.
    """

    model_config = _STRICT

    enabled: bool = True
    check_every_s: AboveZero = 30.0
    step_limit_s: AboveZero = 600.0
    evaluating_limit_s: AboveZero = 1800.0
    restarts: Positive = 3
    window_s: AboveZero = 300.0


class ValidationSection(BaseModel):
    """What a file must pass before it is trained, beside the schema of its rows. (specs/guild.md 5.1, 5.2)

    allow_default: rows that name no schema are `chat_sft_v1`. level: `deep` also looks at what the rows say, which warns. block, skip: of
    the deep checks, the share of rows from which a finding keeps the file from training, and those that are not made.
    """

    model_config = _STRICT

    allow_default: bool = False
    level: Literal["standard", "deep"] = "standard"
    block: dict[str, float] = Field(default_factory=dict)
    skip: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> Self:
        try:
            self.policy()
        except UsageError as error:
            raise ValueError(str(error)) from error
        if self.level != "deep" and (self.block or self.skip):
            raise ValueError("level deep with block or skip, which are about deep checks")
        return self

    def policy(self) -> Policy:
        """The policy for `validate_file`. Raises UsageError."""
        return Policy(block=self.block, skip=frozenset(self.skip))


class ProfileSection(BaseModel):
    """The data profile."""

    model_config = _STRICT

    name: ProfileName


class ConfigFile(BaseModel):
    """What `config.json` holds. What it says of training lies below hero and campaign (`effective_config`)."""

    model_config = _STRICT

    schema_version: int = 1
    model_name: Annotated[str, Field(min_length=1)]
    model_display_name: str = ""
    model_path: str = ""
    current_model_dir: str = ""
    base_model: str = ""
    batch_size: BatchSize = 1
    gradient_accumulation: Accumulation = 16
    learning_rate: LearningRate = 2e-4
    warmup_steps: Count = 100
    epochs: Literal[1] = 1
    load_in_4bit: bool = False
    log_steps: Positive = 10
    eval_steps: Count = 50
    num_eval_samples: Count = 20
    save_steps: Count = 1000
    poll_interval: AboveZero = 60.0
    snapshot_time: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] = "02:00"
    max_length: MaxLength = 2048
    eval_max_tokens: Positive = 512
    eval_timeout_seconds: Seconds = 120.0
    lora_r: LoraRank = 64
    lora_alpha: Positive = 16
    lora_dropout: Share = 0.05
    self_correction: SelfCorrection = SelfCorrection()
    auto_generate: AutoGenerate = AutoGenerate()
    remote_eval: RemoteEval = RemoteEval()
    curriculum: CurriculumSection = CurriculumSection()
    retention: RetentionSection = RetentionSection()
    watchdog: WatchdogSection = WatchdogSection()
    validation: ValidationSection = ValidationSection()
    profile: ProfileSection | None = None
    hyperparams: dict[str, Any] = Field(default_factory=dict)
    optimizer: dict[str, Any] = Field(default_factory=dict)
    locked: dict[str, Any] = Field(default_factory=dict)


def read_config_file(places: Places) -> dict[str, Any]:
    """What stands in `config.json`, without remarks, after a check of every field; {} when there is no file.

    Raises DamagedFileError, or ConfigError with every fault, each naming its field.
    """
    content = _content(places)
    if content:
        _check(places, content)
    return _load(content)


def installation_config(places: Places) -> ConfigFile:
    """The settings of the installation with their defaults; `model_name` is empty when there is no file. Raises like `read_config_file`."""
    content = read_config_file(places)
    return ConfigFile.model_validate(content) if content else ConfigFile.model_construct(model_name="")


def edit_config_file(
    places: Places, changes: Mapping[str, Any], *, unlock: bool = False, reason: str = "", clock: Clock = SYSTEM_CLOCK
) -> list[str]:
    """Set top-level fields of `config.json`; a mapping is merged into the one that is there. Returns the names of fields that changed.

    A file that is not there yet is begun with the active campaign's hero as its `model_name`, unless the changes name one.
    Raises RefusedError while training runs, and for a locked field once there are checkpoints unless `unlock` comes with a `reason`,
    which is logged; ConfigError when the result has faults. Nothing is written then.
    """
    refuse_while_training(places, "changing config.json")
    with campaigns_lock(places, "config set"):
        content = _content(places) or _begun(places, changes)
        wanted = deep_merge(content, changes)
        changed = [key for key in changes if key not in content or content[key] != wanted[key]]
        _check(places, wanted)
        locked = [key for key in changed if key in LOCKED_FIELDS]
        checkpoint = any_checkpoint(places) if locked else None
        if checkpoint is not None:
            if not unlock or not reason.strip():
                raise RefusedError(
                    f"{', '.join(locked)}: locked, since there are checkpoints ({checkpoint}). A new base model or a new context length "
                    "opens a campaign of its own; to change it all the same, give --unlock and a --reason, which is logged."
                )
            for key in locked:
                log_change(places, f"config.json: {key}", before=content.get(key), after=wanted[key], reason=reason, clock=clock)
        if changed:
            make_folder(places.config_file.parent)
            write_json(places.config_file, {"schema_version": 1, **wanted})
        return changed


def _begun(places: Places, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What a new file begins with. Raises ConfigError when nothing says which model it is about."""
    if "model_name" in changes:
        return {}
    active = active_key(places)
    if active is None:
        todo = f"{places.config_file} is not there yet: give model_name=ID, the id of a hero, as well, or open a campaign first"
        raise ConfigError([Fault("model_name", "none", "the name of the model", todo)])
    return {"model_name": active.hero_id}


def _check(places: Places, content: Mapping[str, Any]) -> None:
    """Raise ConfigError with every fault of the file's content."""
    faults: list[Fault] = []
    try:
        resolve(ConfigFile, [Layer("config.json", _load(content))])
    except ConfigError as error:
        faults += error.faults
    model = content.get("model_path")
    if isinstance(model, str) and model and not model.startswith(TINY) and not (places.base / model).expanduser().is_dir():
        allowed = f"the folder of a model, below {places.base} or absolute, or {TINY}…"
        faults.append(Fault("model_path", f"{model!r}, which is not there", allowed))
    if faults:
        raise ConfigError(sorted(faults, key=lambda fault: fault.path))


def _load(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if not key.startswith("_")}


def _content(places: Places) -> dict[str, Any]:
    if not places.config_file.is_file():
        return {}
    content = read_json(places.config_file)
    if not isinstance(content, dict):
        raise DamagedFileError(places.config_file, f"found a {type(content).__name__}", "an object of settings")
    return content
