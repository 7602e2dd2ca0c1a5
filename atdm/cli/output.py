"""What a command prints: its result as JSON or text on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atdm_engine.errors import AtdmError, ErrorCode, UsageError
from atdm_services.advice import ADVICE
from atdm_services.progress import Step

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

EXIT_ERROR = 1
EXIT_USAGE = 2
_PROGRESS_AFTER_SECONDS = 1.0


class Mode(StrEnum):
    """How a command prints its result (requirement A-CLI-02)."""

    HUMAN = "human"
    JSON = "json"


@dataclass(slots=True)
class Output:
    """The two streams of one command; the ``Reporter`` of the services that it calls.

    ``debug`` adds tracebacks to errors. ``quiet`` suppresses notes and progress.
    """

    mode: Mode = Mode.HUMAN
    debug: bool = False
    quiet: bool = False
    worked: bool = False
    """Whether the command did work that may take long; such a command is logged."""
    result: Any = None
    """The payload that the command printed last."""

    @property
    def is_json(self) -> bool:
        return self.mode is Mode.JSON

    def emit(self, payload: Any, human: Callable[[], Any] | None = None) -> None:
        """Print a result: the payload as JSON, or what ``human`` returns (text or a renderable)."""
        self.result = payload
        if self.is_json or human is None:
            write_json(payload)
            return
        rendered = human()
        if isinstance(rendered, str):
            write_line(sys.stdout, rendered)
            return
        if rendered is not None:
            parts = rendered if isinstance(rendered, (list, tuple)) else [rendered]
            target = console()
            for part in parts:
                target.print(part)
            sys.stdout.flush()

    def note(self, text: str) -> None:
        """Print a note on stderr."""
        if not self.quiet:
            write_line(sys.stderr, text)

    @contextmanager
    def working(self, what: str) -> Iterator[Step]:
        """Show progress when the work takes longer than a second.

        A terminal gets a spinner with the seconds, anything else gets one line. Call the ``Step``
        to report how far the work has come.
        """
        step = Step(what)
        self.worked = True
        if self.quiet:
            yield step
            return
        finished = threading.Event()
        display = _spin if sys.stderr.isatty() else _print_once
        thread = threading.Thread(target=display, args=(step, finished), daemon=True)
        thread.start()
        try:
            yield step
        finally:
            finished.set()
            thread.join()

    def fail(self, error: AtdmError) -> int:
        """Print an error and return the exit status it gives (requirement A-ERR-03)."""
        self._traceback(error)
        if self.is_json:
            write_json(error.envelope())
        else:
            advice = error.details.get("hint") or ADVICE.get(error.code)
            write_line(sys.stderr, f"error {error.code}: {error.message}")
            for line in [*_detail_lines(error), *([advice] if advice else [])]:
                write_line(sys.stderr, f"  {line}")
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_ERROR

    def fail_unexpected(self, error: Exception) -> int:
        """Print an error that is a defect: one line, and how to see more."""
        self._traceback(error)
        kind = type(error).__name__
        message = _without_secrets(f"unexpected {kind}: {error}")
        if self.is_json:
            write_json(
                {"error": {"code": "UNEXPECTED", "message": message, "details": {"type": kind}}}
            )
        else:
            write_line(sys.stderr, f"error UNEXPECTED: {message}")
        if not self.debug:
            write_line(sys.stderr, "  This is a defect. ATDM_DEBUG=1 prints where it happened.")
        return EXIT_ERROR

    def _traceback(self, error: Exception) -> None:
        if self.debug:
            write_line(sys.stderr, _without_secrets("".join(traceback.format_exception(error))))


def _without_secrets(text: str) -> str:
    """Text of unexpected errors, without passwords and tokens."""
    from atdm_resources.telemetry.redaction import known_secrets, redact_text

    return redact_text(text, known_secrets())


def write_json(payload: Any) -> None:
    """One JSON document on stdout, indented by two, keys sorted."""
    write_line(sys.stdout, json.dumps(payload, indent=2, sort_keys=True, default=str))


def write_line(stream: Any, text: str) -> None:
    """Write and flush, so that a closed pipe shows here and not at the interpreter's end."""
    stream.write(text + "\n")
    stream.flush()


def write_file(path: Path, content: bytes) -> None:
    """Write all of a file or nothing of it. Raises AtdmError REQUEST_INVALID."""
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)  # a pipe or a device cannot be replaced
            return
        beside = path.with_name(f".{path.name[:100]}.{os.getpid()}")
        try:
            beside.write_bytes(content)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"{path} cannot be written: {error.strerror}",
            {
                "path": str(path),
                "hint": "Name a file in a folder that exists and is writable.",
            },
        ) from error


def console(width: int | None = None) -> Console:
    """A rich console on stdout. Importing rich takes 50 ms, so it is made when it is needed."""
    from rich.console import Console

    if width is None and not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        # Output that goes into a file is not wrapped at rich's default of 80 columns.
        width = 200
    return Console(file=sys.stdout, highlight=False, width=width)


def table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A rich table of plain text. Cells are never read as markup."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return shown


def _detail_lines(error: AtdmError) -> list[str]:
    if error.code is ErrorCode.SPEC_INVALID:
        return []  # the message already has one line for each problem
    return [
        f"{key}: {value if isinstance(value, str) else json.dumps(value, default=str)}"
        for key, value in error.details.items()
        if key != "hint" and value not in (None, [], {}, "")
    ]


def _print_once(step: Step, finished: threading.Event) -> None:
    if not finished.wait(_PROGRESS_AFTER_SECONDS):
        write_line(sys.stderr, f"{step.what} ...")


def _spin(step: Step, finished: threading.Event) -> None:
    started = time.monotonic()
    if finished.wait(_PROGRESS_AFTER_SECONDS):
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.status import Status

    with Status(escape(str(step)), console=Console(stderr=True)) as status:
        while not finished.wait(0.2):
            status.update(escape(f"{step} ({time.monotonic() - started:.0f} s)"))
