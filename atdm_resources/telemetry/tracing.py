"""Traces of requests for OpenTelemetry (OTLP over HTTP), off unless the environment asks for them.

Off, nothing is imported and a span is an object that does nothing (ADR 0075). On:
OTEL_EXPORTER_OTLP_ENDPOINT or ATDM_OTEL=1, and the extra ``otel``.

A trace's id is the id of the Dagster run, without its dashes: whoever has one has the other.
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
"""Batches of a request that have spans of their own; the rest would say the same again."""

EXPORT_SECONDS: Final = 3
"""What a collector that does not answer may cost; OTEL_EXPORTER_OTLP_TIMEOUT changes it."""

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_TRUE: Final = frozenset({"1", "true", "yes", "on"})

_run_id: ContextVar[str | None] = ContextVar("run_id", default=None)


class Span:
    """A span; this one does nothing, because nobody wants traces."""

    def set(self, **attributes: Any) -> None:
        """Add attributes; those that are None are left out."""

    def fail(self, error: BaseException) -> None:
        """Mark the span as failed."""

    def end(self) -> None:
        """The span is over, and what is recorded goes out."""


NONE: Final = Span()
_NOTHING: Final = nullcontext(NONE)


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
    """Start the first span of a trace, to be given to ``span`` and ended by its owner.

    ``start`` is when it began, if that is earlier than now.
    """
    if not wanted() or (provider := _provider()) is None:
        return NONE
    token = _run_id.set(dagster_run_id)
    try:
        from opentelemetry.context import Context

        started = provider.get_tracer("atdm").start_span(
            name, context=Context(), start_time=_nanoseconds(start)
        )
    finally:
        _run_id.reset(token)
    span = _Recording(started, provider)
    span.set(**attributes, **{"dagster.run_id": dagster_run_id})
    return span


def span(
    name: str, parent: Span | None = None, *, start: datetime | None = None, **attributes: Any
) -> AbstractContextManager[Span]:
    """A span around a block: below ``parent``, else below the one that is open in this thread.

    Without any it does nothing: a trace begins with a request.
    """
    if not wanted():
        return _NOTHING
    return _open(name, parent, start, attributes)


class Batches:
    """Spans of what is done batch by batch; the first ``MOST_BATCHES`` have some."""

    def __init__(self) -> None:
        self._number = 0

    def around(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """``items``, with a span around the making of each."""
        began = datetime.now(UTC)
        for item in items:
            self._number += 1
            with self.of(name, began):
                pass  # it is over: that there is none after the last shows only in the asking
            yield item
            began = datetime.now(UTC)

    def of(self, name: str, start: datetime | None = None) -> AbstractContextManager[Span]:
        """A span of the batch in hand."""
        if self._number > MOST_BATCHES:
            return _NOTHING
        return span(name, start=start, batch=self._number)


@contextmanager
def _open(
    name: str, parent: Span | None, start: datetime | None, attributes: dict[str, Any]
) -> Iterator[Span]:
    from opentelemetry import trace

    above = parent.span if isinstance(parent, _Recording) else trace.get_current_span()
    provider = _provider() if above.get_span_context().is_valid else None
    if provider is None:
        yield NONE
        return
    made = provider.get_tracer("atdm").start_span(
        name, context=trace.set_span_in_context(above), start_time=_nanoseconds(start)
    )
    # fail() puts the error down, with its code and without its secrets.
    with trace.use_span(
        made, end_on_exit=True, record_exception=False, set_status_on_exception=False
    ):
        recording = _Recording(made, None)
        recording.set(**attributes)
        try:
            yield recording
        except BaseException as error:
            recording.fail(error)
            raise


class _Recording(Span):
    """A span of the SDK. ``provider`` is set for the first span of a trace."""

    def __init__(self, started: Any, provider: Any) -> None:
        self.span = started
        self._provider = provider

    def set(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            if value is not None:
                key = name if "." in name else f"atdm.{name}"
                self.span.set_attribute(key, value)

    def fail(self, error: BaseException) -> None:
        from opentelemetry.trace import Status, StatusCode

        from atdm_resources.telemetry.redaction import known_secrets, masked_text

        code = str(error.code) if isinstance(error, AtdmError) else type(error).__name__
        message = masked_text(str(error), known_secrets()).split("\n", 1)[0]
        self.span.set_attribute("error.type", code)
        self.span.set_status(Status(StatusCode.ERROR, message))

    def end(self) -> None:
        self.span.end()
        if self._provider is not None:
            # A run's process ends without the interpreter's exit handlers.
            self._provider.force_flush()


def _nanoseconds(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1_000_000) * 1000


@functools.cache
def _provider() -> Any:
    """The provider that sends spans, None where the extra is not installed (said once)."""
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
        """The id of the Dagster run as the trace's."""

        def generate_trace_id(self) -> int:
            try:
                return uuid.UUID(_run_id.get() or "").int or super().generate_trace_id()
            except ValueError:
                return super().generate_trace_id()

    timeout = None if "OTEL_EXPORTER_OTLP_TIMEOUT" in os.environ else EXPORT_SECONDS
    # The environment's own name for the service goes before ours.
    named = {} if "OTEL_SERVICE_NAME" in os.environ else {SERVICE_NAME: "atdm"}
    provider = TracerProvider(resource=Resource.create(named), id_generator=RunIds())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout)))
    return provider
