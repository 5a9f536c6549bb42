"""Traces by OpenTelemetry: a span for each request, and within it one for each SQL statement.

Imported only where the setting OTEL is on. Where spans go, how many are kept and what the service
is called is said by OpenTelemetry's own variables (``OTEL_EXPORTER_OTLP_ENDPOINT`` …). A span has
what a line of the log has, and statements with placeholders: no query, body, header or row.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_trace_id,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext

from webapp.observability.observer import TRACE_ID, Environ, describe_request, find_method

SERVICE = "webapp"
_HEADERS = {"traceparent": "HTTP_TRACEPARENT", "tracestate": "HTTP_TRACESTATE"}
_NAMES = {
    "request_id": "webapp.web.request_id",
    "method": "http.request.method",
    "route": "http.route",
    "client": "client.address",
    "key": "webapp.key",
    "model": "webapp.model",
    "version": "webapp.version",
}


class ProcessTracer:
    """The tracer of this process, made when it is first asked for.

    Spans are sent by a thread, and threads do not live through the fork that makes a worker.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = 0
        self._tracer: Tracer | None = None

    def get(self) -> Tracer:
        """Return it."""
        if self._tracer is None or self._process != os.getpid():
            with self._lock:
                if self._tracer is None or self._process != os.getpid():
                    self._tracer, self._process = self._make(), os.getpid()
        return self._tracer

    def _make(self) -> Tracer:
        named = "OTEL_SERVICE_NAME" in os.environ or "OTEL_RESOURCE_ATTRIBUTES" in os.environ
        provider = TracerProvider(
            resource=Resource.create({} if named else {"service.name": SERVICE})
        )
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return provider.get_tracer(SERVICE)


class TracedApplication:
    """A WSGI application around another, that makes each request a span."""

    def __init__(self, wsgi_app: Callable[..., Iterable[bytes]], tracer: ProcessTracer) -> None:
        self._wsgi_app = wsgi_app
        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request, as a part of the trace that its headers name."""
        carrier = {name: environ[key] for name, key in _HEADERS.items() if key in environ}
        answered = "500"

        def note_status(status: str, *rest: Any) -> Any:
            nonlocal answered
            answered = status
            return start_response(status, *rest)

        with self._tracer.get().start_as_current_span(
            find_method(environ),
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            record_exception=False,
        ) as span:
            environ[TRACE_ID] = format_trace_id(span.get_span_context().trace_id)
            try:
                return self._wsgi_app(environ, note_status)
            finally:
                status, said = int(answered[:3]), describe_request(environ)
                span.update_name(f"{said['method']} {said['route']}")
                span.set_attribute("http.response.status_code", status)
                for name, value in said.items():
                    if name in _NAMES and value is not None:
                        span.set_attribute(_NAMES[name], value)
                if status >= 500:
                    span.set_status(Status(StatusCode.ERROR))


def trace_statements(engine: Engine, tracer: ProcessTracer) -> None:
    """Make each statement of an engine a span of the request that needs it."""

    def begin(
        _connection: Any, _cursor: Any, statement: str, _values: Any, context: Any, _many: bool
    ) -> None:
        if get_current_span().is_recording():
            context.webapp_span = tracer.get().start_span(
                statement.split(maxsplit=1)[0].upper(),
                kind=SpanKind.CLIENT,
                attributes={"db.system.name": engine.dialect.name, "db.query.text": statement},
            )

    def end(
        _connection: Any, _cursor: Any, _statement: str, _values: Any, context: Any, _many: bool
    ) -> None:
        if span := getattr(context, "webapp_span", None):
            span.end()

    def fail(failure: ExceptionContext) -> None:
        if span := getattr(failure.execution_context, "webapp_span", None):
            span.set_status(Status(StatusCode.ERROR, type(failure.original_exception).__name__))
            span.end()

    event.listen(engine, "before_cursor_execute", begin)
    event.listen(engine, "after_cursor_execute", end)
    event.listen(engine, "handle_error", fail)
