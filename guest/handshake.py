"""How the two ends of a channel find each other in the byte stream, and prove who they are.

A virtio-serial port's stream goes on through a fork, perhaps in the middle of a frame, in either direction.  So each
connection begins with a resynchronisation.  The host sends a token that only the key's holders can predict, so that
no payload contains it, and a fresh nonce; the guest looks for the token at all times, drops what came before, and
answers with the host's nonce and its own.  The host drops everything up to that answer.  Then frames begin, and the
first ones carry each side's proof that it knows the key.

The guest's half is written for its first moments after a restore: under software emulation every instruction that a
machine has not run yet costs a thousand.  So a token is computed only when something looks like one, and the digest
is the interpreter's own, not that of a library with a search for providers around it.
"""

from __future__ import annotations

import hmac
from typing import Final

try:
    from _sha2 import sha256  # type: ignore[import-not-found]  # Python 3.12 and later
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256

NONCE_BYTES: Final = 16
TOKEN_BYTES: Final = 32
_SYNC_MAGIC: Final = b"\x00aisync\x00"
_ECHO_MAGIC: Final = b"\x00aiecho\x00"
_BLOCK_BYTES: Final = 64
_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))
MAX_SKIPPED_BYTES: Final = 64 * 1024 * 1024
"""How much of an earlier connection's output a host drops before it gives the guest up."""


def _mac(key: bytes, text: bytes) -> bytes:
    """Return HMAC-SHA-256 (RFC 2104) for a key of at most a block."""
    block = key.ljust(_BLOCK_BYTES, b"\0")
    inner = sha256(block.translate(_INNER) + text).digest()
    digest: bytes = sha256(block.translate(_OUTER) + inner).digest()
    return digest


def token(key: bytes) -> bytes:
    """Return the token by which a guest recognises its host's new connection."""
    return _SYNC_MAGIC + _mac(key, b"agentiso sync")[: TOKEN_BYTES - len(_SYNC_MAGIC)]


def proof(key: bytes, who: bytes, host_nonce: bytes, guest_nonce: bytes) -> str:
    """Return one side's proof of the key, for ``who`` of ``b"host"`` or ``b"guest"``."""
    return _mac(key, who + host_nonce + guest_nonce).hex()


def proves(key: bytes, who: bytes, host_nonce: bytes, guest_nonce: bytes, claimed: object) -> bool:
    """Tell whether the peer's proof is right."""
    return isinstance(claimed, str) and hmac.compare_digest(
        proof(key, who, host_nonce, guest_nonce).encode(), claimed.encode("utf-8", "replace")
    )


def echo(host_nonce: bytes, guest_nonce: bytes) -> bytes:
    """Return the guest's answer to a resynchronisation."""
    return _ECHO_MAGIC + host_nonce + guest_nonce


class SyncScanner:
    """The guest's side: finds resynchronisations in its input, however they are split."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._token = b""
        self._recent = b""

    def set_key(self, key: bytes) -> None:
        """Look for this key's token from now on."""
        self._key, self._token = key, b""

    def prepare(self) -> None:
        """Compute the token ahead."""
        self._token = self._token or token(self._key)

    def feed(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Return (host nonce, first bytes of the new connection) once a resynchronisation is whole.

        Until then the input goes to the old connection as well: bytes of a token that it takes in are dropped with it.
        """
        seen = self._recent + data
        found = -1
        if _SYNC_MAGIC in seen:
            self.prepare()
            found = seen.rfind(self._token)
        if found >= 0:
            rest = seen[found + TOKEN_BYTES :]
            if len(rest) >= NONCE_BYTES:
                self._recent = b""
                return rest[:NONCE_BYTES], rest[NONCE_BYTES:]
            self._recent = seen[found:]
        else:
            self._recent = seen[-(TOKEN_BYTES - 1) :]
        return None


class EchoScanner:
    """The host's side: skips to the guest's answer."""

    def __init__(self, host_nonce: bytes) -> None:
        self._mark = _ECHO_MAGIC + host_nonce
        self._seen = b""
        self.skipped_bytes = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Return (guest nonce, first bytes after it) once the answer is there."""
        self._seen += data
        found = self._seen.find(self._mark)
        if found < 0:
            keep = len(self._mark) - 1
            self.skipped_bytes += max(0, len(self._seen) - keep)
            self._seen = self._seen[-keep:]
            return None
        rest = self._seen[found + len(self._mark) :]
        if len(rest) < NONCE_BYTES:
            self._seen = self._seen[found:]
            return None
        return rest[:NONCE_BYTES], rest[NONCE_BYTES:]
