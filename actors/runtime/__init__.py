"""The actor runtime: mailboxes, `ask`, supervision.  It knows nothing of machines."""

from actors.runtime.actor import Actor, ActorRef, Message
from actors.runtime.nursery import open_plain_nursery
from actors.runtime.supervision import RestartPolicy, Supervisor

__all__ = ["Actor", "ActorRef", "Message", "RestartPolicy", "Supervisor", "open_plain_nursery"]
