"""A real job for tests of `modelwright runs`: it counts steps, beats, logs, and obeys pause and stop.

python toy_run.py DIR [--resume] [--steps N] [--deaf]     --deaf never looks at requests
"""

from __future__ import annotations

import sys
import time

from modelwright.errors import EXIT_PAUSED
from modelwright.rundir import RunDir


def main(arguments: list[str]) -> int:
    path = arguments[0]
    steps = int(arguments[arguments.index("--steps") + 1]) if "--steps" in arguments else 100_000
    resume = [sys.executable, __file__, path, "--resume", "--steps", "3"]
    if "--resume" in arguments:
        run = RunDir.open_writer(path)
    else:
        run = RunDir.create(path, kind="toy", command=[sys.executable, __file__, *arguments], resume_command=resume, tags=["toy"])
    with run:
        run.start_phase("count")
        for step in range(1, steps + 1):
            run.metrics().log("train/loss", 1.0 / step, step)
            run.heartbeat(min_interval_s=0.05).beat(
                status="running", phase="count", step=step, total=steps, throughput=100.0, message="counting"
            )
            for request in [] if "--deaf" in arguments else run.control().poll():
                if request.kind == "pause":
                    saved = run.checkpoints().save("last", lambda folder: (folder / "n.json").write_text("1"), step=step)
                    run.control().ack(request, "paused", step=step, checkpoint=saved.name)
                    run.finish("paused", EXIT_PAUSED, "request")
                    return EXIT_PAUSED
                if request.kind == "stop":
                    run.control().ack(request, "stopped", step=step)
                    run.finish("stopped", 7, "request")
                    return 7
                run.control().ack(request, "refused", reason=f"a toy cannot {request.kind}")
            time.sleep(0.02)
        run.finish("completed", 0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
