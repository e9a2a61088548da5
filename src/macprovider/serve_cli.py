"""`macprovider-cli serve`: its arguments, its help, its exit status. Standard library at import."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from macprovider.settings import SETTINGS

if TYPE_CHECKING:
    from macprovider.serving.session import SessionMaker
    from macprovider.settings import Loaded

EXIT_INTERRUPTED = 130
DESCRIPTION = """\
Serve one model on this machine over HTTP, as OpenAI's interface: /v1/chat/completions, /v1/completions, /v1/models, and
/v1/health, /v1/engine (what the engine really has) and /metrics. It answers only after the model is loaded and has passed a
self-test. Every setting may also stand in the environment or in the configuration file; a flag wins over both.
"""
EPILOG = """\
example:
  macprovider-cli serve --model modelwright/tiny-5m --port 8080 --max-batch 4 --no-join
  curl http://127.0.0.1:8080/v1/chat/completions -d \\
    '{"model": "modelwright/tiny-5m", "messages": [{"role": "user", "content": "Hello"}]}'

An address other than this machine's own needs keys: `modelwright` makes them in $MODELWRIGHT_HOME/tokens.json at the first
start; clients send the read key as their API key. SIGTERM lets running answers finish (drain_timeout_s, 30 s), SIGINT gives
them 5 s, a second SIGINT ends at once.

exit codes:
  0 ended by a signal, after its answers
  1 the model, the engine, the self-test or the port failed, with one sentence
  2 wrong arguments or settings
  130 interrupted while loading, or by a second SIGINT
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `serve`; returns its exit status. What keeps it from serving is one sentence for each fault on stderr."""
    from macprovider.parent_watch import watch_parent

    watch_parent()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupted)  # until the server runs, which drains instead
    from modelwright.errors import ModelwrightError, UsageError

    given = vars(parser().parse_args(argv))
    config = given.pop("config", None)
    from macprovider.settings import load_settings

    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # a log is no place for the bars that libraries draw
    try:
        loaded = load_settings(given, config=config)
        from macprovider.serving.server import serve

        return serve(loaded, _session_maker(loaded))
    except UsageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except ModelwrightError as error:  # the contract has one status for all of them, whatever they are elsewhere
        print(error, file=sys.stderr)
        return 1


def _interrupted(number: int, frame: object) -> None:
    """End at once: an exception would be raised inside whatever a library imports at this moment, and some of them lose it. An
    engine's processes watch their parent and end with it."""
    os.write(2, b"interrupted before the server was ready\n")
    os._exit(EXIT_INTERRUPTED)


def parser() -> argparse.ArgumentParser:
    """The flags of `macprovider.settings.SETTINGS`; values stay text, and what was not given is absent."""
    made = argparse.ArgumentParser(
        prog="macprovider-cli serve",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for setting in SETTINGS:
        if not setting.flag:
            continue
        more: dict[str, Any] = {"metavar": setting.metavar}
        if setting.switch is not None:
            more = {"action": "store_const", "const": setting.switch}
        made.add_argument(setting.flag, dest=setting.name, help=setting.help, **more)
    made.add_argument(
        "--config", metavar="PATH", help="YAML file with settings; or MACPROVIDER_CONFIG (~/.config/macprovider/config.yaml, if there)"
    )
    return made


def _session_maker(loaded: Loaded) -> SessionMaker | None:
    """What makes the coordinator session, imported only when there will be one."""
    if loaded.settings.no_join or loaded.settings.coordinator_url is None:
        return None
    from macprovider.coordinator import make_session

    return make_session


if __name__ == "__main__":
    sys.exit(main())
