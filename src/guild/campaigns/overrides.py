"""Changing a campaign's own settings, checked before they are written. (specs/guild.md 2.1.5, G4)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guild.campaigns.activation import refuse_while_training
from guild.campaigns.campaign import CampaignFolder, campaigns_lock, read_campaign, update_campaign
from guild.campaigns.config_lock import check_lock
from guild.campaigns.effective_config import build_effective
from guild.campaigns.layers import deep_merge
from guild.places import Places


def set_overrides(places: Places, folder: CampaignFolder, changes: Mapping[str, Any]) -> CampaignFolder:
    """Change `config_overrides` of a campaign (None removes one) after a check of the configuration that results.

    Raises ConfigError with every fault, LockMismatchError for a locked field, RefusedError while training runs. Nothing is written then.
    """
    refuse_while_training(places, "changing a campaign's settings")
    with campaigns_lock(places, "campaign set"):
        now = read_campaign(folder.path)
        wanted = deep_merge(now.campaign.config_overrides, changes)
        wanted = {key: value for key, value in wanted.items() if value is not None}
        trial = CampaignFolder(folder.path, now.campaign.model_copy(update={"config_overrides": wanted}))
        check_lock(folder, build_effective(places, trial).value)
        return update_campaign(folder.path, {"config_overrides": wanted})
