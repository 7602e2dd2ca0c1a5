"""What ATDM itself logs: one line an operation, JSON or for people, on stderr (ADR 0074).

Everything goes through the standard library's logger ``atdm``; structlog formats the lines.
Nothing is logged until a process calls ``configure``, which imports structlog: a test suite that
leases data sees no log lines and does not load it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.telemetry.redaction import known_secrets, redact_value

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
    """Writes to what ``sys.stderr`` is at the moment: tests and daemons replace it."""

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

    A ``service`` logs from level ``info`` on. A command at a terminal logs from ``warning`` on,
    because its result is there to read. ATDM_LOG_LEVEL and ATDM_LOG_FORMAT (json, console)
    override both.

    Raises:
        AtdmError: REQUEST_INVALID, a variable has another value.
        ModuleNotFoundError: structlog is not installed.
    """
    from structlog import dev, processors, stdlib

    source = os.environ if environ is None else environ
    terminal = sys.stderr.isatty()
    level = _chosen(source, LEVEL_VARIABLE, LEVELS)
    shape = _chosen(source, FORMAT_VARIABLE, FORMATS)
    secrets = known_secrets(source)

    def redact(_logger: Any, _name: str, value: Any) -> Any:
        return redact_value(value, secrets)

    if (shape or ("console" if terminal else "json")) == "json":
        rendered: list[Any] = [_in_order, processors.JSONRenderer(default=str)]
    else:
        rendered = [dev.ConsoleRenderer(colors=terminal, timestamp_key="ts")]
    handler = _Handler()
    handler.setFormatter(
        stdlib.ProcessorFormatter(
            processors=[
                stdlib.add_log_level,
                processors.TimeStamper(fmt="iso", utc=True, key="ts"),
                stdlib.ExtraAdder(),
                stdlib.ProcessorFormatter.remove_processors_meta,
                processors.format_exc_info,
                redact,
                *rendered,
                redact,  # the finished line again: rendering can put the parts of a secret together
            ]
        )
    )
    target = logging.getLogger(NAME)
    target.handlers = [handler]
    target.propagate = False
    default = "info" if service or not terminal else "warning"
    target.setLevel((level or default).upper())


def configured() -> bool:
    """Whether this process logs."""
    return any(isinstance(handler, _Handler) for handler in logging.getLogger(NAME).handlers)


def record(event: str, *, level: str = "info", seconds: float | None = None, **fields: Any) -> None:
    """Log one line for an operation that has ended; nothing in a process that does not log.

    Fields that are None are left out. ``seconds`` becomes ``latency_ms``.
    """
    if configured():
        if seconds is not None:
            fields["latency_ms"] = round(seconds * 1000, 1)
        known = {name: value for name, value in fields.items() if value is not None}
        getattr(logging.getLogger(NAME), level)(event, extra=known)


def _chosen(source: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str | None:
    found = source.get(name, "").strip().lower()
    if found and found not in allowed:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"{name} is {found!r}; allowed: {', '.join(allowed)}",
            {"variable": name, "found": found, "allowed": list(allowed)},
        )
    return found or None


def _in_order(_logger: Any, _name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    first = {name: fields[name] for name in _FIRST if name in fields}
    return first | {name: fields[name] for name in sorted(fields) if name not in first}
