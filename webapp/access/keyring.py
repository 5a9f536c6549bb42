"""The API keys that this process knows: between leases, checking one costs no query.

One query loads all keys that were used recently. So every process knows them, whichever requests
it has served, and they keep working while the database is away.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from webapp.access import service
from webapp.access.service import KeyRefused
from webapp.db.leases import Leases
from webapp.db.outages import outages_translated
from webapp.db.postgresql import time_limit
from webapp.errors import DatabaseUnavailable, Unavailable
from webapp.web.request import Identity

MOST_RECENT = 100  # keys that one query loads, in about a millisecond
DEADLINE = 2.0  # seconds that a request waits for the database to look up its key
NOTING_PAUSE = 60.0  # seconds of uses that are stored together

log = logging.getLogger(__name__)
_KEY = re.compile(service.KEY_FORM)


@dataclass(frozen=True)
class KnownKey:
    """A key as the database has it; ``expires_at`` is a POSIX time, infinite for never."""

    identity: Identity
    expires_at: float
    revoked: bool


class Keyring:
    """Tells whose key a text is, for all threads of this process.

    ``lease`` is in seconds. Known keys work until they expire while the database is away.
    """

    def __init__(self, engine: sa.Engine, *, lease: float) -> None:
        self._engine = engine
        # Keys by digest: of one digest, or, for None, those that were used recently.
        self._leases = Leases[str | None, Mapping[str, KnownKey]](
            self._load_keys, lease=lease, deadline=DEADLINE, is_nothing=lambda keys: not keys
        )
        self._uses: dict[str, float] = {}  # POSIX times by key_id
        self._timer: threading.Timer | None = None

    def identify(self, text: str) -> Identity:
        """Return whose key this is; raises KeyRefused.

        Raises Unavailable when the key is not known here and the database is away.
        """
        if not _KEY.fullmatch(text):
            raise KeyRefused("The API key is not valid.")
        digest = service.digest_key(text)
        keys, fresh = self._leases.get(None)
        if digest not in keys:
            keys, fresh = self._leases.get(digest)
        key = keys.get(digest)
        if key is None:
            raise KeyRefused("The API key is not valid.") if fresh else DatabaseUnavailable
        if key.revoked:
            raise KeyRefused("The API key has been revoked.")
        now = time.time()
        if key.expires_at <= now:
            raise KeyRefused("The API key has expired.")
        self._uses[key.identity.key_id] = now
        if self._timer is None:  # two threads at once would merely store twice
            self._timer = threading.Timer(NOTING_PAUSE, self._store_uses)
            self._timer.daemon = True
            self._timer.start()
        return key.identity

    def load(self) -> None:
        """Load the recent keys before the first request needs one."""
        try:
            self._leases.get(None)
        except Unavailable as error:  # the leases go on asking in a thread
            log.warning("The API keys could not be loaded: %s", error)

    def wait_out_leases(self) -> None:
        """Wait until no process relies on what it knew of the keys before now."""
        self._leases.wait_out()

    def close(self) -> None:
        """Stop the threads of this keyring, and store the uses so far."""
        self._leases.close()
        if (timer := self._timer) is not None:
            timer.cancel()
            timer.join()
            self._store_uses()

    def _load_keys(self, digest: str | None) -> Mapping[str, KnownKey]:
        with outages_translated(), time_limit(DEADLINE), Session(self._engine) as session:
            if digest is None:
                keys = service.list_recent_keys(session, most=MOST_RECENT)
            else:
                keys = service.find_keys(session, digest)
            return {
                key.digest: KnownKey(
                    Identity(key.key_id, key.holder_id, key.name, frozenset(key.scopes)),
                    expires_at=key.expires_at.timestamp() if key.expires_at else math.inf,
                    revoked=key.revoked_at is not None,
                )
                for key in keys
            }

    def _store_uses(self) -> None:
        uses, self._uses = self._uses, {}
        times = {key_id: datetime.fromtimestamp(at, UTC) for key_id, at in uses.items()}
        try:
            with outages_translated(), Session(self._engine) as session:
                service.note_uses(session, times)
        except Unavailable as error:
            log.warning("The last uses of API keys could not be stored: %s", error)
        finally:
            self._timer = None
