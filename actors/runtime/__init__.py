"""The actor runtime: mailboxes, `ask`, background tasks, supervision.  It knows nothing of machines."""

from actors.runtime.actor import TEARDOWN_S, Actor
from actors.runtime.ask import SETTLE_S, ActorRef
from actors.runtime.mailbox import MAILBOX_SIZE, Mailbox, Message, WhenCancelled
from actors.runtime.nursery import open_plain_nursery, ordinary_failure
from actors.runtime.supervision import RestartPolicy, Supervisor

__all__ = [
    "MAILBOX_SIZE",
    "SETTLE_S",
    "TEARDOWN_S",
    "Actor",
    "ActorRef",
    "Mailbox",
    "Message",
    "RestartPolicy",
    "Supervisor",
    "WhenCancelled",
    "open_plain_nursery",
    "ordinary_failure",
]
