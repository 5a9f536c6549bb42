"""Flask's own classes as this service needs them: strict, and without detours.

What they leave out, Flask and Werkzeug look for with every request, and never find here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import IO, Any, BinaryIO, cast

from flask import Flask, Request, Response, abort
from flask.sessions import NullSession, SessionInterface, SessionMixin
from werkzeug.exceptions import SecurityError
from werkzeug.routing import MapAdapter
from werkzeug.sansio.utils import get_host
from werkzeug.utils import cached_property

from webapp.errors import ServiceError
from webapp.web.body import PIECE, content_length, open_body
from webapp.web.jsonio import OrjsonProvider

# Supervisors, balancers and Prometheus ask by address, and are told nothing that depends on it.
ASKED_BY_ADDRESS = ("/health/", "/metrics")
MOST_FILES = 10  # of a form; a view takes one, and says so of a few
# A name may hold an underscore, as those of containers do; a port may be empty (RFC 9110, 7.2).
_HOST = re.compile(r"(?:[a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::[0-9]{0,5})?", re.IGNORECASE)
_NEEDLESS = re.compile(r"\.(?=:|$)|:$")  # the dot at a name's end, a colon without a port
_ADDRESS = re.compile(r"\[([^\]]+)\](?::[0-9]+)?|([0-9.]+):[0-9]+")


class WholeRequest(Request):
    """A request whose body is read whole and unpacked, or refused (see ``webapp.web.body``)."""

    def __init__(self, environ: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        address = environ.get("REMOTE_ADDR") or ""
        if ":" in address:
            environ["REMOTE_ADDR"] = plain_address(address)
        super().__init__(environ, *args, **kwargs)
        self._form_files: list[IO[bytes]] = []

    @cached_property
    def content_length(self) -> int | None:
        """Return the length of the body in bytes, as it is sent; None where it is not given."""
        return content_length(self.environ)

    @cached_property
    def stream(self) -> BinaryIO:
        """Return the unpacked body, as ``open_body`` does; what Werkzeug reads forms from."""
        return open_body(self.environ, cast(int, self.max_content_length))

    @cached_property
    def host(self) -> str:
        """Return the host that was asked for: in lower case, without the dot at a name's end.

        Raises SecurityError (400) where it is none that is trusted, or no host at all: Werkzeug
        takes the latter for none.
        """
        given: str | None = self.environ.get("HTTP_HOST")
        if given:
            if not _HOST.fullmatch(given):
                raise SecurityError("The Host header is not a host name or address.")
            given = _NEEDLESS.sub("", given.lower())
        return get_host(self.scheme, given, self.server, self.trusted_hosts)

    def _get_file_stream(self, *args: Any, **kwargs: Any) -> IO[bytes]:
        """Return where Werkzeug puts the next file of a form; raises 413 for too many.

        Each larger one takes a descriptor, of which a process has about a thousand.
        """
        if len(self._form_files) == MOST_FILES:
            abort(413, f"The form holds more than {MOST_FILES} files.")
        self._form_files.append(super()._get_file_stream(*args, **kwargs))
        return self._form_files[-1]

    def close(self) -> None:
        """Close the files of a form, of one too that could not be read to its end."""
        for file in self._form_files:
            file.close()

    def read_body(self) -> bytearray:
        """Return the unpacked body; raises what ``open_body`` does."""
        body = bytearray()
        while piece := self.stream.read(PIECE):
            body += piece
        return body


@lru_cache(maxsize=1024)
def plain_address(text: str) -> str:
    """Return the IP address in what a socket or a proxy says of a client.

    Without the port that some proxies add (`198.51.100.7:40001`, `[2001:db8::1]:4711`), and as
    IPv4 where a socket for both kinds has it as IPv6. What is no address comes back as it is.
    """
    found = _ADDRESS.fullmatch(text)
    try:
        address = ip_address(found[1] or found[2] if found else text)
    except ValueError:
        return text
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


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
    behind_proxies: Callable[[Any], Any] = staticmethod(lambda application: application)
    """What reads the headers of trusted proxies, around a WSGI application."""

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return what matches the URL of a request; None outside of one without a SERVER_NAME.

        Flask's own looks for the host twice, and for what a map of several hosts would need.
        """
        if request is None:
            if self.config["SERVER_NAME"] is None:
                return None
            return super().create_url_adapter(None)
        if not request.path.startswith(ASKED_BY_ADDRESS):
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
        """Say whether a request has a route and the API key for it, from its headers alone.

        The server asks this before it takes a large body. Without a key it takes none: the
        caller is answered at once.
        """
        return bool(self.behind_proxies(self._takes_body)(environ, None))

    def _takes_body(self, environ: dict[str, Any], _start_response: object) -> bool:
        with self.request_context(environ) as context:
            try:
                self.extensions.get("guard", lambda: None)()
            except ServiceError:
                return False
            return context.request.routing_exception is None

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return a view as it is; Flask would look, at every step of a request, what it is."""
        return func
