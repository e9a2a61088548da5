"""Workers of the job store that are killed: one process that forks a new life again and again.

    python job_child.py BASE LIVES SEED

Each life takes jobs, works on them and finishes them, and is killed at a drawn point: right after it took a job, in the middle, right
before or right behind its last word, behind its acknowledgement, or at any moment. The job named `poison` kills whoever works on it.
Prints `done <job>` for every job whose end the store acknowledged, then `lives <n>`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from guild.places import Places
from guild.records import jobs
from guild.records.database import open_guild
from modelwright.identity import current_identity

POINTS = ("taken", "middle", "before the end", "after the end", "acknowledged", "any moment")
AT_A_TIME = 3


def life(base: Path, seed: int) -> None:
    """Work until death."""
    chance = random.Random(seed)
    point, jobs_before = chance.choice(POINTS), chance.randrange(3)
    me = current_identity()

    def perhaps(now: str) -> None:
        if now == point and jobs_before <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with open_guild(Places(base)) as db:
        while True:
            jobs.recover(db)
            job = jobs.claim(db, me)
            if job is None:
                time.sleep(0.002)
                continue
            perhaps("taken")
            if job.payload["name"] == "poison":
                os.kill(os.getpid(), signal.SIGKILL)
            jobs.heartbeat(db, job.id, me, position=job.position + 1)
            perhaps("middle")
            if chance.random() < 0.1:
                jobs.fail(db, job.id, me, "drawn by lot")
                continue
            perhaps("before the end")
            jobs.finish(db, job.id, me, {"by": me.pid})
            perhaps("after the end")
            os.write(1, f"done {job.id}\n".encode())
            perhaps("acknowledged")
            jobs_before -= 1


def begin(base: Path, seed: int) -> int:
    child = os.fork()
    if child == 0:
        try:
            life(base, seed)
        finally:
            os._exit(70)  # no life ends by itself
    return child


def main() -> int:
    base, lives, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    begun, alive = 0, {}
    while begun < lives or alive:
        while begun < lives and len(alive) < AT_A_TIME:
            begun += 1
            alive[begin(base, seed + begun)] = time.monotonic() + 0.01 + chance.random() ** 2 * 0.2
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            assert os.WTERMSIG(status) == signal.SIGKILL, f"a life ended by itself: {status}"
            del alive[pid]
            continue
        for pid, until in alive.items():
            if time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
    print(f"lives {begun}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
