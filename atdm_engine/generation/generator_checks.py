"""What can be said of a generator before a row is made: does it fit, do its names exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atdm_engine.arrow.types import INTEGER_BITS, ColumnKind, column_kind, parse_value
from atdm_engine.generation.counts import count_range, resolved_count
from atdm_engine.generators.scalars import MAX_RANKS, scaled_bounds
from atdm_engine.generators.texts import faker_pool
from atdm_engine.patterns.parser import parse
from atdm_engine.spec.generators import (
    After,
    Array,
    Before,
    Boolean,
    Case,
    Choice,
    Constant,
    Date,
    Decimal,
    Faker,
    GeneratorModel,
    Id,
    Integer,
    Json,
    Pattern,
    ReferenceChoice,
    References,
    Text,
    Timestamp,
    Uuid,
)
from atdm_engine.spec.table import ColumnSpec
from atdm_engine.values.times import duration

if TYPE_CHECKING:
    from atdm_engine.generation.plan import GenerationPlan

_TEXT = ("text",)
_FITS: dict[type[GeneratorModel], tuple[str, ...]] = {
    Id: _TEXT,
    Faker: _TEXT,
    Pattern: _TEXT,
    Text: _TEXT,
    Uuid: ("uuid", "text"),
    Json: ("jsonb", "text"),
    Boolean: ("boolean",),
    Date: ("date",),
    Timestamp: ("timestamptz",),
    After: ("date", "timestamptz"),
    Before: ("date", "timestamptz"),
    Integer: ("smallint", "integer", "bigint", "numeric", "double"),
    Decimal: ("numeric", "double"),
}


def check_generator(plan: GenerationPlan, group: str, spec: ColumnSpec, value: Any) -> None:
    """ValueError when ``value`` cannot make a column of row group ``group``."""
    _Check(plan, group, spec).value(value, spec.type)


class _Check:
    def __init__(self, plan: GenerationPlan, group: str, spec: ColumnSpec) -> None:
        self.plan = plan
        self.group = group
        self.spec = spec

    def value(self, value: Any, column_type: str | None) -> None:
        """``column_type`` is None inside JSON, where any value fits."""
        if not isinstance(value, GeneratorModel):
            self.scalar(value, column_type)
            return
        kind = column_kind(column_type) if column_type else None
        self.fits(value, kind)
        if value.prefix and kind and (kind.base != "text" or kind.array):
            raise ValueError("a prefix needs a text column")
        if value.null_fraction and column_type and not self.spec.nullable:
            raise ValueError("null_fraction needs a nullable column")
        self.inside(value, kind, column_type)

    def scalar(self, value: Any, column_type: str | None) -> None:
        if column_type is None:
            return
        if value is None and not self.spec.nullable:
            raise ValueError("null in a column that is not nullable")
        parse_value(column_type, value)

    def fits(self, value: GeneratorModel, kind: ColumnKind | None) -> None:
        if kind is None:
            return
        bases = _FITS.get(type(value))
        name = type(value).__name__.lower()
        if bases is not None and (kind.array or kind.base not in bases):
            raise ValueError(f"{name} makes {' or '.join(bases)}, the column is {_shown(kind)}")
        if isinstance(value, Array) and not kind.array and kind.base != "jsonb":
            raise ValueError(f"array makes arrays, the column is {_shown(kind)}")

    def inside(self, value: GeneratorModel, kind: ColumnKind | None, of: str | None) -> None:
        match value:
            case Constant():
                self.scalar(value.constant, of)
            case Choice():
                for item in value.choice:
                    self.scalar(item, of)
            case Case():
                self.case(value, of)
            case Faker():
                faker_pool(value, _setting(self.plan))
            case Pattern():
                self.pattern(value)
            case Integer():
                self.integer(value, kind)
            case Decimal():
                self.decimal(value, kind)
            case After() | Before():
                form = value.after if isinstance(value, After) else value.before
                if duration(form.max) < duration(form.min):
                    raise ValueError(f"max ({form.max}) is less than min ({form.min})")
            case Text():
                if value.text.max_words < value.text.min_words:
                    raise ValueError("max_words is less than min_words")
            case Json():
                for inner in value.json_.values():
                    self.value(inner, None)
            case Array():
                if value.array.max < value.array.min:
                    raise ValueError("max is less than min")
                listed = of.removesuffix("[]") if of and of.endswith("[]") else None
                self.value(value.array.of, listed)
            case References():
                self.references(value)
            case _:
                return

    def case(self, value: Case, column_type: str | None) -> None:
        known, _ = (
            self.plan.fixed(self.group, value.case) if "." not in value.case else (True, None)
        )
        branches = [*value.branches.values(), value.otherwise]
        if known and "." not in value.case:
            from atdm_engine.generators import branch_for

            branches = [branch_for(value, self.plan.fixed(self.group, value.case)[1])]
        for branch in branches:
            # A branch that no row takes may be NULL by omission.
            if branch is not None or len(branches) == 1:
                self.value(branch, column_type)

    def pattern(self, value: Pattern) -> None:
        spec = parse(value.pattern)
        _ = spec.pieces
        if self.spec.luhn is None:
            return
        if spec.last_characters != "0123456789":
            raise ValueError("a luhn column needs a pattern that ends in one digit of any value")
        if not all(set(node.letters) <= set("0123456789") for node in spec.characters()):
            raise ValueError("a luhn column needs a pattern of digits alone, of a fixed length")
        if len(spec.without_last().pieces) != 1:
            raise ValueError("a luhn column needs a pattern of at most 19 digits")

    def integer(self, value: Integer, kind: ColumnKind | None) -> None:
        form = value.integer
        if form.max < form.min:
            raise ValueError(f"max ({form.max}) is less than min ({form.min})")
        if kind and kind.base in INTEGER_BITS:
            limit = 1 << (INTEGER_BITS[kind.base] - 1)
            if form.min < -limit or form.max >= limit:
                raise ValueError(f"{kind.base} holds {-limit} to {limit - 1}")
        elif max(abs(form.min), abs(form.max)) * 10 ** (kind.scale if kind else 0) >= 2**62:
            raise ValueError("the range needs more than 62 bits")
        span = form.max - form.min + 1
        if form.distribution == "zipf" and span > MAX_RANKS:
            raise ValueError(f"a zipf range has at most {MAX_RANKS} values")
        _check_bins(form.weights, span)

    def decimal(self, value: Decimal, kind: ColumnKind | None) -> None:
        if kind and kind.base == "double":
            if value.decimal.max < value.decimal.min:
                raise ValueError("max is less than min")
            return
        low, high = scaled_bounds(value, kind.scale if kind else 2)
        if high < low:
            raise ValueError("the range holds no value of the column's scale")
        if max(abs(low), abs(high)) >= min(10 ** (kind.precision if kind else 18), 2**62):
            raise ValueError("the range holds values that the column cannot, or that need 62 bits")
        _check_bins(value.decimal.weights, high - low + 1)

    def references(self, value: References) -> None:
        form = value.references
        choice = ReferenceChoice(table=form) if isinstance(form, str) else form
        plan, name = self.plan, choice.table
        if name not in plan.domain.tables and name not in plan.scenario.groups:
            raise ValueError(f"{name} is neither a table nor a row group")
        if any(name in (above, plan.table_name(above)) for above in plan.ancestors(self.group)):
            return
        groups = [
            group for group in plan.scenario.groups if name in (group, plan.table_name(group))
        ]
        if name in plan.domain.tables and self.group in groups:
            return
        reference = plan.domain.reference.get(name)
        if self.spec.nullable or (reference is not None and len(reference)):
            return
        if not any(_always(plan, group) for group in groups):
            may = "may have no row" if groups else "has no row"
            raise ValueError(f"a run {may} of {name} to refer to")


def _always(plan: GenerationPlan, group: str) -> bool:
    """Whether every run has a row of the group."""
    chain = [group, *plan.ancestors(group)]
    return all(
        count_range(resolved_count(plan.group(name), plan.constraints))[0] > 0 for name in chain
    )


def _check_bins(weights: list[float] | None, span: int) -> None:
    if weights is None:
        return
    if min(weights, default=-1.0) < 0 or sum(weights) <= 0:
        raise ValueError("weights must not be negative and must have a positive sum")
    if len(weights) > span:
        raise ValueError(f"{len(weights)} weights for {span} values")


def _shown(kind: ColumnKind) -> str:
    return kind.base + ("[]" if kind.array else "")


def _setting(plan: GenerationPlan) -> Any:
    from datetime import UTC, datetime

    from atdm_engine.generators.cells import Setting

    return Setting(
        datetime(2000, 1, 1, tzinfo=UTC), plan.domain.spec.locale, plan.domain.vocabularies
    )
