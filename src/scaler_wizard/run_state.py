"""What a run remembers between attempts: which phases and rungs were promoted, and what people approved.

Promotions live in `run_metadata.json`, where a rollback reads them; approvals and other settings of the run itself in
the details of `run.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelwright.clock import Clock
from modelwright.errors import MissingFileError
from scaler_wizard import run_metadata
from scaler_wizard.contract import Contract, ContractNotAcceptedError
from scaler_wizard.resolved import ResolvedJob, RungPlan
from scaler_wizard.run_metadata import RungRecord, RunMetadata, Status

if TYPE_CHECKING:
    from modelwright.rundir import RunDir


class RunState:
    """Reads and writes the memory of one run.

    Raises ContractNotAcceptedError when the run was begun with another configuration: that needs a new run and a new
    consent.
    """

    def __init__(self, job: ResolvedJob, run: RunDir, contract: Contract, clock: Clock) -> None:
        self.run = run
        self.clock = clock
        try:
            self.metadata = run_metadata.load(run.path)
        except MissingFileError:
            self.metadata = run_metadata.start(run.run_id, job.config_sha256, contract.sha256, clock.now())
            self._keep(self.metadata)
        if self.metadata.config_sha256 != job.config_sha256:
            reason = (
                f"the run was begun with the config {self.metadata.config_sha256[:12]}… and is resumed with "
                f"{job.config_sha256[:12]}…: "
                "restore the settings, or start a new run with a new contract"
            )
            raise ContractNotAcceptedError([("config_sha256", reason)])

    def _keep(self, metadata: RunMetadata) -> None:
        run_metadata.save(self.run.path, metadata)
        self.metadata = metadata

    def status(self, status: Status) -> None:
        """Record the run's status."""
        if self.metadata.status != status:
            self._keep(self.metadata.with_status(status, self.clock.now()))

    # ---- promotions ----------------------------------------------------------------------------------------------

    def promoted(self, rung: RungPlan) -> bool:
        """Whether an attempt promoted this rung."""
        return any(record.length == rung.length and record.promoted for record in self.metadata.rungs)

    def promoted_phase(self, phase: int) -> bool:
        return f"phase_{phase}" in self.metadata.checkpoints

    def promote(self, rung: RungPlan, scores: Mapping[str, float | None], manifests: Mapping[str, str], rope: Mapping[str, Any]) -> None:
        """Record a rung and its phase as promoted; `manifests` has the digest of the phase's checkpoint."""
        name = f"phase_{rung.phase}"
        record = RungRecord(
            length=rung.length,
            phase=rung.phase,
            path=f"checkpoints/rung_{rung.length}",
            promoted=True,
            scores=dict(scores),
        )
        changed = self.metadata.with_rung(record, self.clock.now())
        self._keep(changed.promoted(rung.phase, f"checkpoints/{name}", manifests[name], rope, self.clock.now()))

    def promote_phase(self, phase: int, manifest_sha256: str, rope: Mapping[str, Any] | None = None) -> None:
        """Record `phase_<phase>` as promoted."""
        self._keep(self.metadata.promoted(phase, f"checkpoints/phase_{phase}", manifest_sha256, rope, self.clock.now()))

    def newest_phase(self) -> int:
        """The highest promoted phase (0 when there is none)."""
        return max((int(name.removeprefix("phase_")) for name in self.metadata.checkpoints), default=0)

    # ---- approvals -----------------------------------------------------------------------------------------------

    def approved(self, length: int) -> bool:
        """Whether a person approved the rung of `length` tokens in this or an earlier attempt."""
        return str(length) in self.run.record.details.get("approvals", {})

    def approve(self, length: int, actor: str, reason: str) -> None:
        approvals = {**self.run.record.details.get("approvals", {}), str(length): {"actor": actor, "reason": reason}}
        self.run.update(approvals=approvals)
