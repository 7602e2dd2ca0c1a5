"""A small bundle in memory, of another domain than the shipped one, for tests of this folder."""

from __future__ import annotations

from collections.abc import Mapping

from atdm_engine.bundle.registry import Registry
from atdm_engine.bundle.spec_file import SpecFile
from atdm_engine.errors import Problem, SpecError

FILES: dict[str, str] = {
    "atdm.yaml": "default_domain: shop\n",
    "shop/domain.yaml": """\
description: A web shop.
markers:
  customer.name: {starts_with: FAKE_}
forbidden:
  card_number: "[0-9]{4}-[0-9]{4}-[0-9]{4}-[0-9]{4}"
""",
    "shop/tables/customer.yaml": """\
description: Somebody who buys.
key: customer_id
columns:
  customer_id: {type: text, generate: {id: cust}}
  name: {type: text, min_length: 6, max_length: 20, generate: {constant: FAKE_Ada}}
  status: {type: text, values: [active, closed]}
  joined: {type: date, min: 2020-01-01, generate: {date: {from: 2020-01-01, to: as_of}}}
  vip: {type: boolean, generate: {constant: false}}
constraints:
  customer_status: {sets: status}
  vip: {sets: vip}
""",
    "shop/tables/country.yaml": """\
description: Where a parcel may go.
key: code
columns:
  code: {type: text, pattern: "[A-Z]{2}", generate: {pattern: "[A-Z]{2}"}}
  name: {type: text, nullable: true}
  rate: {type: "numeric(6,2)", min: 0, generate: {decimal: {min: 0, max: 99}}}
""",
    "shop/tables/purchase.yaml": """\
description: What a customer bought.
key: purchase_id
columns:
  purchase_id: {type: text, generate: {id: pur}}
  customer_id: {type: text, references: customer}
  country: {type: text, references: country, generate: {constant: DE}}
  state: {type: text, values: [open, paid, lost], generate: {constant: open}}
  amount: {type: "numeric(8,2)", min: 0.01, max: 9999, generate: {decimal: {min: 1, max: 50}}}
  paid_at:
    type: timestamptz
    nullable: true
    generate: {case: state, paid: {timestamp: {from: as_of - 2d, to: as_of}}, else: null}
  note: {type: text, nullable: true}
constraints:
  purchase_state: {sets: state}
  country: {sets: country}
checks:
  paid_has_time: state <> 'paid' OR paid_at IS NOT NULL
""",
    "shop/reference/country.csv": "code,name,rate\nDE,Germany,4.90\nFR,,7.5\n",
    "shop/rules/relational.closed_customers_buy_nothing.sql": """\
-- A closed customer has no open purchase.
SELECT p.purchase_id, NOT (c.status = 'closed' AND p.state = 'open') AS holds
FROM purchase p JOIN customer c USING (customer_id)
""",
    "shop/first_purchase.yaml": """\
scenario_id: first_purchase
description: Active customer with an open purchase.
tags: [basket]
linked_requirement_ids: [SHOP-1]
rows:
  customer: 1
  purchase: {per: customer, count: 1}
validators: [relational.closed_customers_buy_nothing]
""",
    "shop/open_and_paid.yaml": """\
scenario_id: open_and_paid
description: Customer with two open purchases and one that is paid.
linked_requirement_ids: []
rows:
  customer: 1
  open_purchase: {table: purchase, per: customer, count: 2}
  paid_purchase: {table: purchase, per: customer, count: 1, with: {purchase_state: paid}}
""",
    "shop/closed_but_buying.yaml": """\
scenario_id: closed_but_buying
description: Closed customer whose purchase is still open.
linked_requirement_ids: []
default_constraints: {customer_status: closed}
rows:
  customer: 1
  purchase: {per: customer, count: 1}
violates: [relational.closed_customers_buy_nothing]
""",
}


def spec_files(changes: Mapping[str, str | None] | None = None) -> list[SpecFile]:
    """The bundle's files with some replaced, added or (None) left out."""
    texts = {**FILES, **(changes or {})}
    return [
        SpecFile(path=f"bundle/{name}", name=name, text=text)
        for name, text in texts.items()
        if text is not None
    ]


def shop(changes: Mapping[str, str | None] | None = None) -> Registry:
    """The registry of the changed bundle."""
    return Registry.build(spec_files(changes))


def problems(changes: Mapping[str, str | None]) -> list[Problem]:
    """What is wrong with the changed bundle; empty when nothing is."""
    try:
        shop(changes)
    except SpecError as error:
        return list(error.problems)
    return []


def replaced(name: str, old: str, new: str) -> dict[str, str | None]:
    """The change of one file in which ``old`` stands once."""
    assert FILES[name].count(old) == 1, (name, old)
    return {name: FILES[name].replace(old, new)}
