"""Anticipated failures of workspaces and their machines.

The tree (all under `guest.errors.AgentisoError`)::

    AgentisoError
    ├── InvalidName, InvalidArgument          the caller's request is malformed
    ├── NameTaken, PortTaken, NotFound, IllegalState   the request does not fit what exists
    ├── ImageInUse                            an image to be removed is stood on
    ├── NoCapacity                            the host cannot hold it
    ├── MailboxFull, ActorGone                busy, gone
    ├── DeadlineExceeded                      late, and cancelled
    │   ├── NeverBegun                        late, and still waiting for its turn: nothing was done
    │   └── OutcomeUnknown                    late, and still under way
    ├── Unfinished                            begun, and gone on with by itself until it is done
    ├── HostFailed                            the host's files cannot be read or written
    ├── HostUnfit                             the host lacks something; the remedy names it
    ├── CheckpointUnusable            a checkpoint or what it stands on does not fit
    ├── MachineFailed                         QEMU did not start, or died
    ├── QmpError                              QEMU refused a command
    ├── GuestBroken                           the guest agent's channel is of no further use
    ├── GuestRefused                          the guest agent answered with an error
    ├── ConsumerFailed                        what takes a guest's data failed
    ├── RestoreUnproven                       a restored guest could not prove what it is
    ├── SupervisorRunning                     another supervisor holds the state directory
    └── SupervisorGone                        the supervisor that a program is attached to ended
        └── SupervisorEnding                  it was ending already, and has done nothing
"""

from __future__ import annotations

from guest.errors import AgentisoError, LocalProtocolError, ProtocolError, RemoteProtocolError

__all__ = [
    "ActorGone",
    "AgentisoError",
    "CheckpointUnusable",
    "ConsumerFailed",
    "DeadlineExceeded",
    "GuestBroken",
    "GuestRefused",
    "HostFailed",
    "HostUnfit",
    "IllegalState",
    "ImageInUse",
    "InvalidArgument",
    "InvalidName",
    "LocalProtocolError",
    "MachineFailed",
    "MailboxFull",
    "NameTaken",
    "NeverBegun",
    "NoCapacity",
    "NotFound",
    "OutcomeUnknown",
    "PortTaken",
    "ProtocolError",
    "QmpError",
    "RemoteProtocolError",
    "RestoreUnproven",
    "SupervisorEnding",
    "SupervisorGone",
    "SupervisorRunning",
    "Unfinished",
]


class InvalidName(AgentisoError):
    """A name does not follow the grammar."""

    code = "invalid_name"


class InvalidArgument(AgentisoError):
    """An argument is out of range or of the wrong form."""

    code = "invalid_argument"


class NameTaken(AgentisoError):
    """The name already belongs to something else."""

    code = "name_taken"


class PortTaken(AgentisoError):
    """A port of the host is in use, or promised to somebody."""

    code = "port_taken"


class NotFound(AgentisoError):
    """No such workspace, snapshot or image, or it exists no longer."""

    code = "not_found"


class IllegalState(AgentisoError):
    """The workspace's lifecycle state does not allow the request."""

    code = "illegal_state"
    usual_remedy = "workspace_info tells its state; bring it into another one first."


class ImageInUse(AgentisoError):
    """An image cannot be removed, since something stands on it, or may do so as far as can be told."""

    code = "image_in_use"


class NoCapacity(AgentisoError):
    """Memory, disk or a configured limit is exhausted."""

    code = "no_capacity"


class MailboxFull(AgentisoError):
    """The actor has as many requests waiting as it accepts; nothing was done."""

    code = "busy"


class DeadlineExceeded(AgentisoError):
    """The request took longer than its deadline and was cancelled; the message tells what became of it."""

    code = "deadline_exceeded"
    usual_remedy = "Try again when the host is less busy."


class NeverBegun(DeadlineExceeded):
    """The request's deadline passed before its turn came; it was withdrawn and nothing was done."""

    code = "never_begun"


class OutcomeUnknown(DeadlineExceeded):
    """The request's deadline passed and it could not be cancelled in time; it is still under way."""

    code = "outcome_unknown"
    usual_remedy = "workspace_info tells what has come of it; look before you try again."


class ActorGone(AgentisoError):
    """The actor stopped before it answered."""

    code = "gone"
    usual_remedy = "Try again: what crashed is started anew. What is gone for good, workspace_list names no more."


class Unfinished(AgentisoError):
    """It was begun and cannot be undone; what could not be done yet is tried again until it is."""

    code = "unfinished"
    usual_remedy = "It goes on by itself; `agentiso doctor` tells what is in the way."


class HostUnfit(AgentisoError):
    """The host lacks a program, a right or a feature."""

    code = "host_unfit"


class HostFailed(AgentisoError):
    """The host's disk or file system refuses what is asked rightly; ``facts`` has ``path``."""

    code = "host_failed"
    usual_remedy = "Look at that file, its disk and its rights (`agentiso doctor` tells what else is wrong); try again."


class CheckpointUnusable(AgentisoError):
    """A checkpoint, or the image or disk layer it stands on, is missing, damaged or does not fit this host."""

    code = "checkpoint_unusable"
    usual_remedy = "Go back to another snapshot, if there is one, or make the workspace anew."


class MachineFailed(AgentisoError):
    """QEMU did not start or ended by itself; ``facts`` has ``log_tail`` and ``console_tail``."""

    code = "machine_failed"
    usual_remedy = "workspace_logs has its last words; workspace_start boots it from its disk."


class QmpError(AgentisoError):
    """QEMU answered a QMP command with an error; ``facts`` has ``qmp_class`` and ``command``."""

    code = "qmp_error"
    usual_remedy = "workspace_logs has what QEMU said; workspace_stop and workspace_start make a new machine."


class GuestBroken(AgentisoError):
    """The guest's channel ended, went mute or spoke nonsense; the outcome of open requests is unknown."""

    code = "guest_broken"
    usual_remedy = (
        "workspace_info tells whether its machine runs, workspace_logs what it said; or go back to a snapshot, if "
        "there is one."
    )


class GuestRefused(AgentisoError):
    """The guest agent answered with an error; ``facts`` has ``guest_code``."""

    code = "guest_refused"
    usual_remedy = "Look at the guest itself, with exec or workspace_logs."


class ConsumerFailed(AgentisoError):
    """What a caller gave to take a guest's output or files raised something; ``__cause__`` is that."""

    code = "consumer_failed"
    usual_remedy = "Mend what takes the data; a command that was run may still run, and keeps its output."


class RestoreUnproven(AgentisoError):
    """A restored guest failed to give the evidence of a correct restore; it was destroyed."""

    code = "restore_unproven"


class SupervisorRunning(AgentisoError):
    """Another supervisor holds the lock of the state directory."""

    code = "supervisor_running"


class SupervisorGone(AgentisoError):
    """The supervisor that this program is attached to ended or does not answer; open outcomes are unknown."""

    code = "supervisor_gone"


class SupervisorEnding(SupervisorGone):
    """The supervisor ended before it answered a greeting, so that nothing was asked of it; the next one may be."""
