"""Traces of requests for OpenTelemetry (OTLP over HTTP), off unless the environment asks for them.

OTEL_EXPORTER_OTLP_ENDPOINT or ATDM_OTEL=1 switches them on; the extra ``otel`` must be installed.
When they are off, nothing is imported and a span is an object that does nothing (ADR 0075). A
trace's id is the id of the Dagster run, without its dashes.
"""

from __future__ import annotations

import functools
import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from atdm_engine.errors import AtdmError

T = TypeVar("T")

MOST_BATCHES: Final = 50
"""Batches of a request that have spans of their own; more would repeat the same."""

EXPORT_SECONDS: Final = 3
"""Longest wait for a collector that does not answer; OTEL_EXPORTER_OTLP_TIMEOUT changes it."""

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_TRUE: Final = frozenset({"1", "true", "yes", "on"})

_run_id: ContextVar[str | None] = ContextVar("run_id", default=None)


class Span:
    """A span that records nothing: traces are off."""

    def set(self, **attributes: Any) -> None:
        """Add attributes; those that are None are left out."""

    def fail(self, error: BaseException) -> None:
        """Mark the span as failed."""

    def end(self) -> None:
        """End the first span of a trace and send what is recorded."""


NONE: Final = Span()


def wanted() -> bool:
    """Whether the environment asks for traces."""
    environ = os.environ
    if environ.get("OTEL_SDK_DISABLED", "").lower() in _TRUE:
        return False
    return environ.get("ATDM_OTEL", "").lower() in _TRUE or any(
        environ.get(name) for name in _ENDPOINTS
    )


def begin(
    name: str, dagster_run_id: str | None, *, start: datetime | None = None, **attributes: Any
) -> Span:
    """Start the first span of a trace. The caller passes it to ``span`` and ends it.

    ``start`` is when it began, if that is earlier than now.
    """
    if not wanted() or (provider := _provider()) is None:
        return NONE
    from opentelemetry.context import Context

    token = _run_id.set(dagster_run_id)
    try:
        first = _Recording(
            provider.get_tracer("atdm").start_span(
                name, context=Context(), start_time=_nanoseconds(start)
            )
        )
    finally:
        _run_id.reset(token)
    first.set(**attributes, **{"dagster.run_id": dagster_run_id})
    return first


@contextmanager
def span(
    name: str, parent: Span | None = None, *, start: datetime | None = None, **attributes: Any
) -> Iterator[Span]:
    """A span around a block, below ``parent``, by default below the open span of this thread.

    Without a span above it does nothing: a trace begins with a request.
    """
    provider = _provider() if wanted() else None
    if provider is None:
        yield NONE
        return
    from opentelemetry import trace

    above = parent.span if isinstance(parent, _Recording) else trace.get_current_span()
    if not above.get_span_context().is_valid:
        yield NONE
        return
    with provider.get_tracer("atdm").start_as_current_span(
        name,
        context=trace.set_span_in_context(above),
        start_time=_nanoseconds(start),
        # fail() records the error, with its code and without its secrets.
        record_exception=False,
        set_status_on_exception=False,
    ) as opened:
        recording = _Recording(opened)
        recording.set(**attributes)
        try:
            yield recording
        except BaseException as error:
            recording.fail(error)
            raise


class Batches:
    """Spans of work that is done batch by batch: one for each of the first ``MOST_BATCHES``."""

    def __init__(self) -> None:
        self._number = 0

    def around(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """``items``, with a span around the making of each."""
        began = datetime.now(UTC)
        for item in items:
            self._number += 1
            with self.of(name, began):
                pass  # the span ends here: only now is it known that there was another item
            yield item
            began = datetime.now(UTC)

    def of(self, name: str, start: datetime | None = None) -> AbstractContextManager[Span]:
        """A span of the current batch."""
        if self._number > MOST_BATCHES:
            return nullcontext(NONE)
        return span(name, start=start, batch=self._number)


class _Recording(Span):
    """A span of OpenTelemetry's SDK."""

    def __init__(self, started: Any) -> None:
        self.span = started

    def set(self, **attributes: Any) -> None:
        self.span.set_attributes(
            {
                name if "." in name else f"atdm.{name}": value
                for name, value in attributes.items()
                if value is not None
            }
        )

    def fail(self, error: BaseException) -> None:
        from opentelemetry.trace import Status, StatusCode

        from atdm_resources.telemetry.redaction import known_secrets, redact_text

        code = str(error.code) if isinstance(error, AtdmError) else type(error).__name__
        message = redact_text(str(error), known_secrets()).split("\n", 1)[0]
        self.span.set_attribute("error.type", code)
        self.span.set_status(Status(StatusCode.ERROR, message))

    def end(self) -> None:
        self.span.end()
        # A run's process ends without the interpreter's exit handlers.
        _provider().force_flush()


def _nanoseconds(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1_000_000) * 1000


@functools.cache
def _provider() -> Any:
    """The provider that sends spans; None without the extra ``otel``, with one warning."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    except ModuleNotFoundError as error:
        logging.getLogger("atdm").warning(
            "traces are asked for, but %s is not installed: pip install 'atdm[otel]'", error.name
        )
        return None

    class RunIds(RandomIdGenerator):
        """Takes the id of the Dagster run for the trace."""

        def generate_trace_id(self) -> int:
            try:
                return uuid.UUID(_run_id.get() or "").int or super().generate_trace_id()
            except ValueError:
                return super().generate_trace_id()

    timeout = None if "OTEL_EXPORTER_OTLP_TIMEOUT" in os.environ else EXPORT_SECONDS
    # A name of the service in the environment takes precedence.
    named = {} if "OTEL_SERVICE_NAME" in os.environ else {SERVICE_NAME: "atdm"}
    provider = TracerProvider(resource=Resource.create(named), id_generator=RunIds())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout)))
    return provider
