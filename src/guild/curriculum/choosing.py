"""Which skill, at which level, from where: what a generation needs to know before it begins. (specs/guild.md 2.4)"""

from __future__ import annotations

from dataclasses import dataclass

from guild.campaigns.pointer import active_campaign
from guild.curriculum.progress import settings_of
from guild.curriculum.schedule import Candidate, Preset, enabled_skills, order, read_schedule
from guild.curriculum.settings import SkillSettings, known_skills
from guild.curriculum.sources import SkillApiError, SkillSource, SourceInfo, source_of
from guild.curriculum.state import CurriculumDocument, read_state
from guild.curriculum.totals import Totals
from guild.errors import RefusedError
from guild.places import Places
from guild.records.checkpoint_record import NO_CAMPAIGN, CampaignId
from modelwright.files import sha256_json


@dataclass(frozen=True)
class Choice:
    """A skill whose source answers. down: skill → sentence, for those that were to come before it and do not answer."""

    skill: SkillSettings
    level: int
    source: SkillSource
    info: SourceInfo
    down: dict[str, str]


class NoSourceError(RefusedError):
    """No skill that is asked for can be reached. down: skill → sentence."""

    def __init__(self, down: dict[str, str]) -> None:
        self.down = down
        super().__init__("\n".join(down.values()))


@dataclass(frozen=True)
class Plans:
    """What the active schedule says now. preset_key: changes whenever the active preset does."""

    campaign: CampaignId
    state: CurriculumDocument
    candidates: tuple[str, ...]
    preset_key: str
    preset: str


def active(places: Places) -> CampaignId:
    """The active campaign; NO_CAMPAIGN when none is selected."""
    folder = active_campaign(places)
    return NO_CAMPAIGN if folder is None else CampaignId(*folder.key)


def look(places: Places, totals: Totals) -> Plans:
    """The skills in the order in which the schedule wants them. Raises MissingFileError without a schedule, ConfigError, RefusedError."""
    folder = active_campaign(places)
    campaign = NO_CAMPAIGN if folder is None else CampaignId(*folder.key)
    schedule = read_schedule(places, known_skills(places))
    key = preset_key(schedule.active, schedule.preset)
    state, files = read_state(places, campaign), totals.files(key)
    focus = () if folder is None else folder.campaign.skills_focus
    candidates = [
        Candidate(skill, state.standing(skill).mastered, settings_of(places, skill).max_level, int(files.get(skill, 0)))
        for skill in enabled_skills(schedule.preset, focus)
    ]
    return Plans(campaign, state, order(schedule.preset, schedule.settings, candidates), key, schedule.active)


def preset_key(name: str, preset: Preset) -> str:
    """Name and digest of a preset, so that turns begin anew when either changes."""
    return f"{name}:{sha256_json(preset.model_dump())[:12]}"


def choose(places: Places, plans: Plans, *, skill: str | None = None, level: int | None = None) -> Choice:
    """The first skill of the schedule whose source answers, or the one that is named, at its training level.

    A skill that does not answer is passed over and named in `down`, so that one dead server does not starve training; with a named skill
    nothing takes its place. Raises NoSourceError when none answers, UnknownSkillError, RefusedError for a level the skill does not have.
    """
    down: dict[str, str] = {}
    for name in (skill,) if skill is not None else plans.candidates:
        settings = settings_of(places, name)
        try:
            source = source_of(places, settings)
            info = source.info()
        except (SkillApiError, RefusedError) as error:
            down[settings.id] = str(error)
            continue
        last = min(settings.max_level, info.max_level)
        wanted = level if level is not None else settings.rule.training_level(plans.state.standing(settings.id).mastered)
        if not 1 <= wanted <= last:
            raise RefusedError(f"level: found {wanted} for the skill {settings.id} ({info.address}); allowed: 1 to {last}.")
        return Choice(settings, wanted, source, info, down)
    raise NoSourceError(down)
