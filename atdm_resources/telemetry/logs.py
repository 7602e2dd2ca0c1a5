"""What ATDM itself logs: one line an operation, JSON or for people, on stderr (ADR 0074).

Nothing is logged until a process says ``configure``: a test suite that asks for data is not told
what its data cost. structlog is imported there and not before.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Final

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.telemetry.redaction import known_secrets, masked_text, masked_value

LEVEL_VARIABLE: Final = "ATDM_LOG_LEVEL"
FORMAT_VARIABLE: Final = "ATDM_LOG_FORMAT"
LEVELS: Final = ("debug", "info", "warning", "error", "critical")
FORMATS: Final = ("json", "console")
NAME: Final = "atdm"

_FIRST: Final = (
    "ts", "level", "event", "status", "request_id", "test_run_id", "dagster_run_id", "scenario",
    "method", "path", "invoker", "latency_ms",
)  # fmt: skip
"""The order of a line's fields (requirement A-MET-03); others follow by name."""


class _Handler(logging.StreamHandler[Any]):
    """Writes to whatever stderr is at the moment, as tests and daemons replace it."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, _value: Any) -> None:
        pass


def configure(*, service: bool, environ: Mapping[str, str] | None = None) -> None:
    """Let this process log: JSON, or for people where stderr is a terminal.

    A ``service`` logs from ``info`` on; a command does at a terminal from ``warning`` on, as its
    result is there to read. ATDM_LOG_LEVEL and ATDM_LOG_FORMAT (json, console) say otherwise.

    Raises:
        AtdmError: REQUEST_INVALID, a variable has another value.
    """
    import structlog

    source = os.environ if environ is None else environ
    terminal = sys.stderr.isatty()
    level = _chosen(source, LEVEL_VARIABLE, LEVELS)
    shape = _chosen(source, FORMAT_VARIABLE, FORMATS)
    secrets = known_secrets(source)
    if (shape or ("console" if terminal else "json")) == "json":
        shown: list[Any] = [
            structlog.processors.format_exc_info,
            _masking(secrets),
            _in_order,
            structlog.processors.JSONRenderer(default=str),
        ]
    else:
        shown = [
            structlog.processors.format_exc_info,
            _masking(secrets),
            structlog.dev.ConsoleRenderer(colors=terminal, timestamp_key="ts"),
        ]
    before: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
    ]
    handler = _Handler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *shown,
                _last_look(secrets),
            ],
        )
    )
    target = logging.getLogger(NAME)
    target.handlers = [handler]
    target.propagate = False
    default = "info" if service or not terminal else "warning"
    target.setLevel((level or default).upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *before,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def configured() -> bool:
    """Whether this process logs."""
    return any(isinstance(handler, _Handler) for handler in logging.getLogger(NAME).handlers)


def logger() -> Any:
    """structlog's logger of a process that has said ``configure``."""
    import structlog

    return structlog.stdlib.get_logger(NAME)


def record(event: str, *, status: str, seconds: float, level: str = "info", **fields: Any) -> None:
    """One line for an operation that is over; nothing in a process that does not log.

    Fields that are None are left out. ``seconds`` becomes ``latency_ms``.
    """
    if configured():
        known = {name: value for name, value in fields.items() if value is not None}
        write = getattr(logger(), level)
        write(event, status=status, latency_ms=round(seconds * 1000, 1), **known)


@contextmanager
def operation(event: str, **fields: Any) -> Iterator[dict[str, Any]]:
    """Around an operation: one line when it is over, with ``status`` ok, or an error's code.

    Yields a mapping for what is only known inside: request_id, status, ...
    """
    found: dict[str, Any] = dict(fields)
    started = time.perf_counter()
    try:
        yield found
    except BaseException as error:
        code = str(error.code) if isinstance(error, AtdmError) else type(error).__name__
        seconds = time.perf_counter() - started
        given = {name: value for name, value in found.items() if name != "status"}
        record(event, status=code, seconds=seconds, level="error", error=str(error), **given)
        raise
    found.setdefault("status", "ok")
    record(event, seconds=time.perf_counter() - started, **found)


def _chosen(source: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str | None:
    found = source.get(name, "").strip().lower()
    if found and found not in allowed:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"{name} is {found!r}; allowed: {', '.join(allowed)}",
            {"variable": name, "found": found, "allowed": list(allowed)},
        )
    return found or None


def _masking(secrets: tuple[str, ...]) -> Any:
    """The processor that masks what a line says, in all its fields and whatever is in them."""

    def mask(_logger: Any, _name: str, fields: MutableMapping[str, Any]) -> Mapping[str, Any]:
        masked: dict[str, Any] = masked_value(dict(fields), secrets)
        return masked

    return mask


def _last_look(secrets: tuple[str, ...]) -> Any:
    """The line as it goes out, once more: rendering may have put pieces together."""

    def mask(_logger: Any, _name: str, line: str) -> str:
        return masked_text(line, secrets)

    return mask


def _in_order(_logger: Any, _name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    first = {name: fields[name] for name in _FIRST if name in fields}
    return first | {name: fields[name] for name in sorted(fields) if name not in first}
