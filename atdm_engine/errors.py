"""Errors with a code, a message for a person and details for a program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any


class ErrorCode(StrEnum):
    """Stable, machine-readable codes of errors (requirements A-ERR-01, A-ERR-02)."""

    SCENARIO_NOT_FOUND = "SCENARIO_NOT_FOUND"
    RUN_NOT_FOUND = "RUN_NOT_FOUND"
    DATASET_NOT_FOUND = "DATASET_NOT_FOUND"
    SPEC_INVALID = "SPEC_INVALID"
    CONSTRAINT_INVALID = "CONSTRAINT_INVALID"
    CONSTRAINT_CONTRADICTION = "CONSTRAINT_CONTRADICTION"
    REQUEST_INVALID = "REQUEST_INVALID"
    REQUEST_CONFLICT = "REQUEST_CONFLICT"
    VALIDATOR_REJECTED = "VALIDATOR_REJECTED"
    SEED_FAILED = "SEED_FAILED"
    TOKEN_MISMATCH = "TOKEN_MISMATCH"
    CONFIRM_REQUIRED = "CONFIRM_REQUIRED"
    NONE_READY = "NONE_READY"
    BUSY = "BUSY"
    RESET_FAILED = "RESET_FAILED"
    SNAPSHOT_FAILED = "SNAPSHOT_FAILED"
    RESTORE_FAILED = "RESTORE_FAILED"
    DATASET_FAILED = "DATASET_FAILED"
    NO_BASELINE = "NO_BASELINE"
    BASELINE_NOT_FOUND = "BASELINE_NOT_FOUND"
    BASELINE_EXISTS = "BASELINE_EXISTS"
    BASELINE_INVALID = "BASELINE_INVALID"
    CLONE_FAILED = "CLONE_FAILED"
    TARGET_UNREACHABLE = "TARGET_UNREACHABLE"
    TARGET_NOT_INITIALISED = "TARGET_NOT_INITIALISED"
    TARGET_NOT_DISPOSABLE = "TARGET_NOT_DISPOSABLE"
    TARGET_DRIFT = "TARGET_DRIFT"
    STORE_FAILED = "STORE_FAILED"
    LLM_MODE_NOT_ENABLED = "LLM_MODE_NOT_ENABLED"
    MISSING_EXTRA = "MISSING_EXTRA"
    DAGSTER_UNREACHABLE = "DAGSTER_UNREACHABLE"
    DAGSTER_RUN_FAILED = "DAGSTER_RUN_FAILED"


class AtdmError(Exception):
    """The base of all errors that are shown to a user.

    ``details`` holds JSON-serialisable values only and never a secret.
    """

    def __init__(
        self, code: ErrorCode, message: str, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details: dict[str, Any] = dict(details or {})

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled by their args, which would be the message alone.
        return type(self), (self.code, self.message, self.details)

    def envelope(self) -> dict[str, Any]:
        """The error as the contract's JSON object (requirement A-ERR-03)."""
        return {"error": {"code": str(self.code), "message": self.message, "details": self.details}}


class UsageError(AtdmError):
    """The call itself is wrong: ``atdm`` exits with 2 instead of 1 (requirement A-CLI-04)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a specification file: where, what was found, what is allowed.

    ``file`` is the path as the registry got it, ``line`` counts from 1 (0: the whole file),
    ``key`` is a dotted path inside the file.
    """

    file: str
    line: int
    key: str
    found: str
    allowed: str
    nearest: str | None = None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        text = f"{where}: {self.key}: found {self.found}; allowed: {self.allowed}"
        return f"{text}; did you mean {self.nearest!r}?" if self.nearest else text


class SpecError(AtdmError):
    """Specification files are wrong; it holds every problem, not only the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        noun = "problem" if count == 1 else "problems"
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(
            ErrorCode.SPEC_INVALID,
            f"{count} {noun} in the specification files:\n{lines}",
            {"problems": [asdict(problem) for problem in self.problems]},
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)


def unknown_domain(domain: str, known: Iterable[str]) -> AtdmError:
    """REQUEST_INVALID for a domain that is none of ``known``, with the nearest spelling."""
    names = list(known)
    nearest = nearest_spelling(domain, names)
    return AtdmError(
        ErrorCode.REQUEST_INVALID,
        f"there is no domain {domain!r}; known: {', '.join(names)}"
        + (f"; did you mean {nearest}?" if nearest else ""),
        {"domain": domain, "known": names},
    )


def nearest_spelling(word: str, known: Iterable[str]) -> str | None:
    """The known word closest to ``word``, or None when none is close."""
    matches = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def spelling_hint(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the end of a message, or nothing when no known word is close."""
    nearest = nearest_spelling(word, known)
    return f"; did you mean {nearest!r}?" if nearest else ""
