"""The `agentiso` command.

Until it listens to Ctrl-C itself there is nothing to be undone, and so that ends it at once, without a word.
"""

import os
import signal
import sys


def main() -> None:
    """Run the command and exit with its status."""
    # Whoever had it ignore the signal, as nohup(1) does, is not overruled.
    listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if listens:
        signal.signal(signal.SIGINT, _end_at_once)
    from agentiso.cli.main import main as run

    try:
        if listens:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if listens:
            signal.signal(signal.SIGINT, _end_at_once)


def _end_at_once(_number: int, _frame: object) -> None:
    os._exit(130)
