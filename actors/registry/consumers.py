"""What callers give the registry to call: whatever that raises ends their call, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from actors.model.errors import AgentisoError, ConsumerFailed
from actors.registry.messages import OnProgress


@contextmanager
def callers_own(what: str, *expected: type[Exception]) -> Iterator[None]:
    """Raise `ConsumerFailed` where a caller's code fails, unless with what is ``expected`` of such code."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (AgentisoError, *expected)):
            raise
        raise ConsumerFailed(
            f"{what} failed: {error!r:.200}.", remedy="Mend it: it is what the call was given."
        ) from error


def reporting(on_progress: OnProgress | None) -> Callable[[str], None]:
    """Return a function that tells a caller of progress, if it asked for that."""

    def report(step: str) -> None:
        if on_progress is not None:
            with callers_own("What is told of the progress"):
                on_progress(step)

    return report
