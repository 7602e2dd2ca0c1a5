"""A small domain for the engine's tests: customers, orders, lines, every kind of column."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from atdm_engine.arrow.types import typed_array
from atdm_engine.bundle.registry import Registry
from atdm_engine.generation.request import RequestSpec, resolve
from atdm_engine.model import Domain, Exposure, Scenario
from atdm_engine.spec.constraints import Constraint
from atdm_engine.spec.domain import DomainSpec
from atdm_engine.spec.scenario import ScenarioSpec
from atdm_engine.spec.table import TableSpec
from atdm_engine.values.scalars import TypedScalar

AS_OF = datetime(2026, 6, 1, 12, 30, tzinfo=UTC)
REQUEST = "01K0ABCDEF0123456789000000"
OTHER_REQUEST = "01KZZZZZZZ9876543210000000"
VOCABULARIES = {
    ("en_US", "first_name"): ("Ann", "Bob", "Cid", "Dee", "Eve"),
    ("de_DE", "first_name"): ("Jörg", "Änne"),
}

TABLES: dict[str, Any] = {
    "category": {
        "description": "What is sold.",
        "key": "code",
        "columns": {
            "code": {"type": "text", "generate": {"id": "cat"}},
            "vat": {"type": "numeric(4,2)", "generate": {"constant": 7.0}},
        },
    },
    "customer": {
        "description": "Who buys.",
        "key": "customer_id",
        "columns": {
            "customer_id": {"type": "text", "generate": {"id": "cust"}},
            "status": {"type": "text", "values": ["new", "loyal"], "generate": {"constant": "new"}},
            "first_name": {"type": "text", "generate": {"faker": "first_name", "prefix": "FAKE_"}},
            "login": {"type": "text", "unique": True, "generate": {"faker": "first_name"}},
            "number": {
                "type": "integer",
                "unique": True,
                "generate": {"integer": {"min": 1000, "max": 999_999}},
            },
            "card": {
                "type": "text",
                "unique": True,
                "luhn": "invalid",
                "generate": {"pattern": "[0-9]{12}"},
            },
            "token": {"type": "uuid", "unique": True, "generate": {"uuid": 4}},
            "email": {"type": "text", "generate": {"sql": "lower(login) || '@example.com'"}},
            "score": {
                "type": "double",
                "nullable": True,
                "generate": {"decimal": {"min": 0.0, "max": 1.0}, "null_fraction": 0.25},
            },
            "address": {
                "type": "jsonb",
                "generate": {
                    "json": {
                        "street": {"pattern": '[A-Z]"[0-9]'},
                        "country": "US",
                        "tags": {"array": {"of": {"choice": ["x", "y"]}, "max": 2}},
                        "rate": {"decimal": {"min": -2.0, "max": 2.0}},
                        "back": {"choice": ["a\\b", "t\tb"], "prefix": ""},
                    }
                },
            },
            "tags": {
                "type": "text[]",
                "generate": {"array": {"of": {"faker": "first_name"}, "min": 0, "max": 3}},
            },
            "created_at": {
                "type": "timestamptz",
                "generate": {"timestamp": {"from": "as_of - 30d", "to": "as_of - 10d"}},
            },
            "vip": {"type": "boolean", "generate": {"boolean": 0.1}},
            "referred_by": {"type": "text", "nullable": True, "references": "customer"},
        },
    },
    "purchase": {
        "description": "An order.",
        "key": "purchase_id",
        "columns": {
            "purchase_id": {"type": "text", "generate": {"id": "p"}},
            "customer_id": {"type": "text", "references": "customer"},
            "placed_at": {
                "type": "timestamptz",
                "generate": {"after": {"column": "customer.created_at", "min": "1h", "max": "5d"}},
            },
            "due": {
                "type": "date",
                "generate": {"after": {"column": "placed_at", "min": "0s", "max": "14d"}},
            },
            "state": {
                "type": "text",
                "values": ["open", "paid", "void"],
                "generate": {"choice": {"open": 1, "paid": 3}},
            },
            "reason": {
                "type": "text",
                "nullable": True,
                "generate": {
                    "case": "state",
                    "paid": {"pattern": "OK-[0-9]{3}"},
                    "void": "cancelled",
                },
            },
            "total": {
                "type": "numeric(12,2)",
                "generate": {
                    "sql": "(SELECT coalesce(sum(amount), 0) FROM line "
                    "WHERE line.purchase_id = purchase.purchase_id)"
                },
            },
        },
    },
    "line": {
        "description": "A line of an order.",
        "key": "line_id",
        "columns": {
            "line_id": {"type": "text", "generate": {"id": "l"}},
            "purchase_id": {"type": "text", "references": "purchase"},
            "category": {
                "type": "text",
                "references": "category",
                "generate": {"references": {"table": "category", "distribution": "zipf"}},
            },
            "quantity": {"type": "smallint", "generate": {"integer": {"min": 1, "max": 9}}},
            "price": {"type": "numeric(10,2)", "generate": {"decimal": {"min": 0.5, "max": 99.99}}},
            "vat": {"type": "numeric(4,2)", "generate": {"sql": "category.vat"}},
            "amount": {"type": "numeric(12,2)", "generate": {"sql": "quantity * price"}},
            "state": {"type": "text", "generate": {"sql": "parent.state"}},
            "who": {"type": "text", "generate": {"sql": "customer.first_name || '/' || quantity"}},
        },
    },
}

ROWS: dict[str, Any] = {
    "customer": 1,
    "friend": {
        "table": "customer",
        "count": {"uniform": [0, 2]},
        "with": {"customer_status": "loyal"},
    },
    "purchase": {"per": "customer", "count": {"poisson": {"mean": 1.5, "max": 4}}},
    "line": {"per": "purchase", "count": {"weights": {1: 2, 2: 1, 3: 1}}},
    "void": {"table": "purchase", "per": "friend", "count": 1, "set": {"state": "void"}},
}

CONSTRAINTS: dict[str, Constraint] = {
    "customer_status": Constraint(
        "customer_status",
        "text",
        values=("new", "loyal"),
        default="new",
        sets=(("customer", "status"),),
    ),
    "purchase_state": Constraint(
        "purchase_state", "text", values=("open", "paid", "void"), sets=(("purchase", "state"),)
    ),
    "category": Constraint("category", "text", sets=(("line", "category"),), reference="category"),
    "vip": Constraint("vip", "boolean", sets=(("customer", "vip"),)),
    "lines": Constraint("lines", "integer", min=0, max=5, default=2),
}


def shop(
    rows: Mapping[str, Any] | None = None,
    tables: Mapping[str, Any] | None = None,
    constraints: Mapping[str, Constraint] | None = None,
    exposes: tuple[Exposure, ...] = (),
) -> Registry:
    """The domain with one scenario, ``sale``; ``tables`` replace or extend those of the module."""
    specs = {
        name: TableSpec.model_validate(spec) for name, spec in {**TABLES, **(tables or {})}.items()
    }
    spec = ScenarioSpec.model_validate(
        {"scenario_id": "sale", "linked_requirement_ids": [], "rows": dict(rows or ROWS)}
    )
    groups = spec.row_groups()
    made = {group.table or name for name, group in groups.items()}
    known = dict(CONSTRAINTS if constraints is None else constraints)
    scenario = Scenario(
        domain="shop",
        name="sale",
        spec=spec,
        version="0",
        groups=groups,
        constraints=known,
        defaults={name: constraint.default for name, constraint in known.items()},
        rules=(),
        tables=tuple(name for name in specs if name in made),
        exposes=exposes,
    )
    category = pa.table(
        {
            "code": typed_array("text", ["food", "toys", "books"]),
            "vat": typed_array("numeric(4,2)", ["7.00", "19.00", "7.50"]),
        }
    )
    domain = Domain(
        name="shop",
        spec=DomainSpec.model_validate({"description": "A shop."}),
        tables=specs,
        reference={"category": category},
        scenarios={"sale": scenario},
        vocabularies=VOCABULARIES,
    )
    return Registry("shop", {"shop": domain})


def row_key(prefix: str, test_run_id: str, row: int = 0) -> str:
    """The key of row ``row`` of a table in a run (requirement A-ID-03)."""
    return f"{prefix}-{test_run_id}" if row == 0 else f"{prefix}-{test_run_id}-{row}"


def request(
    registry: Registry | None = None,
    given: Mapping[str, TypedScalar] | None = None,
    *,
    runs: int = 40,
    seed: int = 7,
    request_id: str = REQUEST,
    number_base: int = 0,
) -> RequestSpec:
    """A resolved request for the scenario ``sale``."""
    return resolve(
        *(registry or shop()).find("sale"),
        given or {},
        runs=runs,
        seed=seed,
        as_of=AS_OF,
        request_id=request_id,
        number_base=number_base,
    )


def one_column(column: Mapping[str, Any], count: int = 1000, **options: Any) -> pa.Array:
    """``count`` cells of a single column ``x`` of a table of its own, one a run."""
    columns = {
        "id": {"type": "text", "generate": {"id": "t"}},
        **options.pop("others", {}),
        "x": dict(column),
    }
    table = {"description": "One.", "key": "id", "columns": columns}
    registry = shop({"single": 1}, {"single": table}, {})
    from atdm_engine.generation.batches import generate

    spec = request(registry, runs=count, **options)
    return generate(spec, 1, count)["single"].column("x").combine_chunks()
