"""What `guild init` copies into a new base directory: the hosts registry, storage, schedule, heroes and skills."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
"""Holds `hosts.json`, `storage.json`, `schedule.yaml`, `heroes/*.yaml` and `skills/*.yaml`."""
