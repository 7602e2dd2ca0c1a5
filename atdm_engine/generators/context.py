"""What the check of a value is given: the column it is for, and the names around it."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeVar

from atdm_engine.arrow.types import parse_value
from atdm_engine.errors import spelling_hint
from atdm_engine.generators.cells import Luhn
from atdm_engine.values.scalars import TypedScalar, key_text, scalar_text

Result = TypeVar("Result")


class Finding(NamedTuple):
    """One thing wrong with a value: where below it, what was found, what is allowed.

    ``known`` are the words of which the found one may be a misspelling.
    """

    path: tuple[object, ...]
    found: str
    allowed: str
    known: Sequence[str] = ()

    def __str__(self) -> str:
        where = ".".join(key_text(part) for part in self.path)
        hint = spelling_hint(self.found.strip("'"), self.known)
        return f"{where}{': ' if where else ''}found {self.found}; allowed: {self.allowed}{hint}"


def placed(findings: Iterable[Finding], *path: object) -> Iterator[Finding]:
    """Findings about a part as those of the value that has it at ``path``."""
    for finding in findings:
        yield finding._replace(path=(*path, *finding.path))


Lookup = Generator[Finding, None, Result]
"""A look-up that yields what is wrong with a name, and returns what the name stands for."""


class ColumnFacts(Protocol):
    """What is known of a column that a generator reads."""

    @property
    def type(self) -> str: ...

    @property
    def values(self) -> Sequence[str] | None: ...


@dataclass(frozen=True)
class ColumnContext:
    """The column that a value is checked for, and what can be looked up around it.

    ``type`` is None for a member of a JSON object, where any value fits; ``values`` are the only
    ones that the column allows. The look-ups here accept every name; a bundle's files and a
    generation plan know more.
    """

    type: str | None
    nullable: bool = False
    values: Sequence[str] | None = None
    luhn: Luhn | None = None
    locale: str = "en_US"
    vocabularies: Collection[tuple[str, str]] = ()

    def element(self) -> ColumnContext:
        """The context of an element of an array column or JSON array."""
        inner = self.type.removesuffix("[]") if self.type and self.type.endswith("[]") else None
        return replace(self, type=inner, values=None)

    def member(self) -> ColumnContext:
        """The context of a member of a JSON object."""
        return replace(self, type=None, nullable=True, values=None)

    def fixed(self, name: str) -> tuple[bool, TypedScalar]:
        """Whether a column or constraint has one known value for all rows, and which."""
        return False, None

    def column(self, path: Sequence[object], name: str) -> Lookup[ColumnFacts | None]:
        """The column of the row, or of a row above it (``order.created_at``), that is meant."""
        yield from ()
        return None

    def subject(self, path: Sequence[object], name: str) -> Lookup[Collection[str] | None]:
        """The values, as text, of the column or constraint that a ``case`` names.

        Empty when it may have any value, None when its values are not known here.
        """
        yield from ()
        return None

    def reference(self, path: Sequence[object], table: str) -> Iterator[Finding]:
        """What is wrong with ``table`` as the table (or row group) that the column refers to."""
        return iter(())


def scalar_findings(value: TypedScalar, context: ColumnContext) -> Iterator[Finding]:
    """What is wrong with a scalar for the cells of a column."""
    if value is None:
        if not context.nullable:
            yield Finding((), "null", "a value: the column is not nullable")
        return
    if context.type is None:
        return
    try:
        typed = parse_value(context.type, value)
    except ValueError as error:
        yield Finding((), repr(scalar_text(value)), str(error))
        return
    allowed = []
    for word in context.values or ():
        with suppress(ValueError):  # A wrong one is reported at the column.
            allowed.append(parse_value(context.type, word))
    if context.values and typed not in allowed:
        words = list(context.values)
        yield Finding((), repr(scalar_text(value)), "one of " + ", ".join(words), words)
