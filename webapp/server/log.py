"""gunicorn's own words, in the form of the application's log."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger


class ServerLog(Logger):
    """Hands what gunicorn says to the root logger, unless it is told a file of its own."""

    def setup(self, cfg: Any) -> None:
        """Set up, at the start and at each reload."""
        super().setup(cfg)
        if cfg.errorlog == "-":
            self.error_log.handlers.clear()
            self.error_log.propagate = True
