"""Flask's own classes as this service needs them: strict, and without detours.

What they leave out, Flask and Werkzeug look for with every request, and never find here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Request, Response, abort
from flask.sessions import NullSession, SessionInterface, SessionMixin
from werkzeug.exceptions import ClientDisconnected
from werkzeug.routing import MapAdapter
from werkzeug.sansio.utils import get_content_length
from werkzeug.utils import cached_property

from webapp.errors import ServiceError
from webapp.jsonio import OrjsonProvider

# Supervisors and balancers ask by address, and are told nothing that depends on it.
PROBES = "/health/"


class WholeRequest(Request):
    """A request whose body is read whole, or answered 400.

    gunicorn says of its input that it ends by itself, and Werkzeug then takes the end of the
    connection for the end of the body: half a table would be trained on as if it were all.
    """

    def __init__(self, environ: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        if environ.get("CONTENT_LENGTH"):
            environ.pop("wsgi.input_terminated", None)
        super().__init__(environ, *args, **kwargs)

    @cached_property
    def content_length(self) -> int | None:
        """Return the length of the body in bytes; None where it is in chunks, or not given."""
        environ = self.environ
        length: str | None = environ.get("CONTENT_LENGTH") or None
        return get_content_length(length, environ.get("HTTP_TRANSFER_ENCODING"))

    def read_body(self) -> bytes:
        """Return the body, read in one go; raises 400 where it ends early, and 413."""
        length = self.content_length or 0
        limit = self.max_content_length
        if limit is not None and length > limit:
            abort(413)
        body: bytes = self.environ["wsgi.input"].read(length)
        if len(body) < length:
            raise ClientDisconnected
        return body


class NoSessions(SessionInterface):
    """One session for all requests, which nobody can write to: the service has no cookies."""

    _session = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        """Return the session of no one."""
        return self._session

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Never be called: Flask saves no NullSession."""
        raise NotImplementedError


class Application(Flask):
    """Flask, with this service's requests and JSON, and without asynchronous views."""

    request_class = WholeRequest
    json_provider_class = OrjsonProvider
    session_interface = NoSessions()

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return what matches the URL of a request; None outside of one without a SERVER_NAME.

        Flask's own looks for the host twice, and for what a map of several hosts would need.
        """
        if request is None:
            if self.config["SERVER_NAME"] is None:
                return None
            return super().create_url_adapter(None)
        if not request.path.startswith(PROBES):
            request.trusted_hosts = self.config["TRUSTED_HOSTS"]
        return MapAdapter(
            self.url_map,
            server_name=request.host,
            script_name=request.root_path + "/",
            subdomain="",
            url_scheme=request.scheme,
            path_info=request.path,
            default_method=request.method,
            query_args=request.query_string.decode("latin-1"),
        )

    def takes_body(self, environ: dict[str, Any]) -> bool:
        """Say whether a request gets past routing and guard; the server asks before a large body.

        It so takes no large body from callers without a key; they get their answer at once.
        """
        with self.request_context(environ) as context:
            try:
                self.extensions.get("guard", lambda: None)()
            except ServiceError:
                return False
            return context.request.routing_exception is None

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return a view as it is; Flask would look, at every step of a request, what it is."""
        return func
