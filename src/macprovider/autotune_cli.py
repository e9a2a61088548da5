"""`macprovider-cli autotune`: find the largest model this machine can serve, then its best settings. (specs/autotune.md)

Neither torch nor transformers is imported here: candidates are processes of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, see `macprovider.autotune.arguments.EXIT_CODES_HELP`."""
    try:
        return _command(argv)
    except KeyboardInterrupt:  # before a run listens to signals itself, or while a stored one is printed
        print("interrupted; nothing was started", file=sys.stderr)
        return 130


def _command(argv: Sequence[str] | None) -> int:
    from macprovider.autotune.arguments import WrongArguments, parse
    from macprovider.autotune.outcome import SetupError

    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] == "experiment":
        from macprovider.autotune.experiments.command import main as experiment

        return experiment(words[1:])
    try:
        options, _ = parse(words)
    except WrongArguments as error:
        from macprovider.autotune.records.stored import refused

        return refused(error)
    from macprovider.autotune.records import stored
    from macprovider.autotune.run import tune

    try:
        if options.dry_run:
            return stored.dry_run(options)
        if options.report_only:
            return stored.report_only(options)
        if options.check_stale:
            return stored.check_stale(options)
        return tune(options)
    except SetupError as error:
        return stored.unusable(error)


if __name__ == "__main__":
    sys.exit(main())
