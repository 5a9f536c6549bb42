"""The keys that this process knows: whose a key is costs no query between leases.

A question about any key brings the answer for all that were used recently. So each process knows
them, whichever requests it has met, and goes on accepting them while the database is away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from webapp.access.errors import KeyRefused
from webapp.access.keys import digest_key, is_same, looks_like_key
from webapp.db.leases import Leases
from webapp.errors import DatabaseUnavailable, Unavailable
from webapp.web.request import Identity

log = logging.getLogger(__name__)

NOTING_PAUSE = 60.0  # seconds in which uses are collected before they are stored


@dataclass(frozen=True)
class StoredKey:
    """What the database says of a key; it expires at a POSIX time, or never, at infinity."""

    identity: Identity
    digest: str
    expires_at: float
    revoked: bool


class Keyring:
    """Tells whose a key is, for all threads of this process.

    ``find_recent_keys()`` asks the database for the keys that were used recently, by digest, and
    ``find_key(digest)`` for any other; ``note_uses`` stores when keys were used last. All raise
    ``Unavailable`` when they cannot. ``lease`` and ``deadline`` are in seconds,
    as ``webapp.db.leases`` has them. While the database cannot be asked, keys that are known go on
    working until they expire.
    """

    def __init__(
        self,
        *,
        find_recent_keys: Callable[[], Mapping[str, StoredKey]],
        find_key: Callable[[str], StoredKey | None],
        note_uses: Callable[[Mapping[str, datetime]], None],
        lease: float,
        deadline: float,
    ) -> None:
        self._recent = Leases[None, Mapping[str, StoredKey]](
            lambda _: find_recent_keys(),
            lease=lease,
            deadline=deadline,
            is_nothing=lambda _: False,
        )
        self._others = Leases(
            find_key, lease=lease, deadline=deadline, is_nothing=lambda key: key is None
        )
        self._note_uses = note_uses
        self._uses: dict[str, float] = {}  # POSIX times by id
        self._noting: threading.Thread | None = None
        self._closed = threading.Event()

    def identify(self, text: str) -> Identity:
        """Return whose key this is.

        Raises KeyRefused, and Unavailable when the database cannot be asked about a key that
        this process does not know.
        """
        if not looks_like_key(text):
            raise KeyRefused("The API key is not valid.")
        digest = digest_key(text)
        recent, fresh = self._recent.get(None)
        key = recent.get(digest)
        if key is None:
            key, fresh = self._others.get(digest)
        if key is None and not fresh:
            raise DatabaseUnavailable
        if key is None or not is_same(digest, key.digest):
            raise KeyRefused("The API key is not valid.")
        if key.revoked:
            raise KeyRefused("The API key has been revoked.")
        now = time.time()
        if key.expires_at <= now:
            raise KeyRefused("The API key has expired.")
        self._uses[key.identity.key_id] = now
        if self._noting is None:
            self._start_noting()
        return key.identity

    def load(self) -> None:
        """Ask for the recent keys, before any request needs one."""
        try:
            self._recent.get(None)
        except Unavailable as error:  # a thread goes on asking
            log.warning("The API keys could not be loaded: %s", error)

    def wait_out_leases(self) -> None:
        """Wait until no process can rely on what it was told of a key before now."""
        self._recent.wait_out()

    def close(self) -> None:
        """Stop what is done beside requests, and store the uses so far."""
        self._closed.set()
        self._recent.close()
        self._others.close()
        self.wait_for_notes()

    def wait_for_notes(self) -> None:
        """Wait until the uses so far are stored."""
        noting = self._noting
        if noting is not None:
            noting.join()

    def _start_noting(self) -> None:
        # Two threads at once would merely note twice.
        self._noting = threading.Thread(target=self._note_later, name="key-uses", daemon=True)
        self._noting.start()

    def _note_later(self) -> None:
        self._closed.wait(NOTING_PAUSE)
        uses, self._uses = self._uses, {}
        try:
            self._note_uses({key: datetime.fromtimestamp(at, UTC) for key, at in uses.items()})
        except Unavailable as error:
            log.warning("When keys were used last could not be stored: %s", error)
        finally:
            self._noting = None
