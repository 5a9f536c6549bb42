"""Traces by OpenTelemetry: a span for each request, and in it one for each SQL statement.

Imported only if the setting OTEL is on; OpenTelemetry's own variables (``OTEL_EXPORTER_OTLP_…``)
say where spans go. A span has what a log line has, and statements with placeholders: no rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
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

from webapp.observability.observer import TRACE_ID, Environ, Facts

SERVICE = "webapp"
_ATTRIBUTES = {
    "request_id": "webapp.request_id",
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "client": "client.address",
    "key": "webapp.key",
    "model": "webapp.model",
    "version": "webapp.version",
}


@cache
def find_tracer() -> Tracer:
    """Return this process's tracer.

    The first request makes it, in a worker: a thread sends its spans, and none survives a fork.
    """
    resource = Resource.create({"service.name": SERVICE}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer(SERVICE)


class TracedApplication:
    """WSGI middleware that makes a span of each request, which `describe_span` then describes."""

    def __init__(self, wsgi_app: Callable[..., Iterable[bytes]]) -> None:
        self._wsgi_app = wsgi_app
        self._propagator = TraceContextTextMapPropagator()

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request, as a part of the trace that its headers name."""
        names = ("traceparent", "tracestate")
        carrier = {name: environ.get(f"HTTP_{name.upper()}", "") for name in names}
        with find_tracer().start_as_current_span(
            "request",
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            record_exception=False,
        ) as span:
            environ[TRACE_ID] = format_trace_id(span.get_span_context().trace_id)
            return self._wsgi_app(environ, start_response)


def describe_span(facts: Facts, _environ: Environ) -> None:
    """Write what is known of an answered request into its span."""
    span = get_current_span()
    span.update_name(f"{facts['method']} {facts['route']}")
    for name, attribute in _ATTRIBUTES.items():
        if facts.get(name) is not None:
            span.set_attribute(attribute, facts[name])
    if facts["status"] >= 500:
        span.set_status(Status(StatusCode.ERROR))


def trace_statements(engine: Engine) -> None:
    """Make each statement of an engine a span of the request that needs it."""

    @event.listens_for(engine, "before_cursor_execute", named=True)
    def begin(statement: str, context: Any, **_: Any) -> None:
        if get_current_span().is_recording():
            context.webapp_span = find_tracer().start_span(
                statement.split(maxsplit=1)[0].upper(),
                kind=SpanKind.CLIENT,
                attributes={"db.system.name": engine.dialect.name, "db.query.text": statement},
            )

    @event.listens_for(engine, "after_cursor_execute", named=True)
    def end(context: Any, **_: Any) -> None:
        if span := getattr(context, "webapp_span", None):
            span.end()

    @event.listens_for(engine, "handle_error")
    def fail(failure: ExceptionContext) -> None:
        if span := getattr(failure.execution_context, "webapp_span", None):
            span.set_status(Status(StatusCode.ERROR, type(failure.original_exception).__name__))
            span.end()
