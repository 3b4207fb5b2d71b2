"""Disposable Linux machines for AI agents, forked while they run.

Synopsis::

    async with agentiso.open_system() as system:
        ws = await system.create("demo")
        result = await ws.exec("uname -a")
        children = await ws.fork(3)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentiso.public import *  # noqa: F403 - its names are those of this package
    from agentiso.public import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        """Import what is asked for; a command, which needs only parts of it, does not wait for all."""
        names = import_module("agentiso.public")
        return getattr(names, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *import_module("agentiso.public").__all__})
