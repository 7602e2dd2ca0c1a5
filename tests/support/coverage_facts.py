"""A coverage with everything in it, for the tests of its page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from atdm_services.coverage.matrix import History, Published, coverage_of
from atdm_services.coverage.report import as_json

AT = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
HOSTILE = "</style><script>document.title = 'taken'</script>"


def covered(tests: int = 4) -> dict[str, Any]:
    """Passing, failing, flaky, skipped and never exercised; names that are long or hostile."""
    outcomes = ["passed", "failed", "error", "skipped"]
    published = [
        Published("shop/order_paid", f"An order that is paid {HOSTILE}", ("FR-1", "FR-2", "NFR-1")),
        Published("shop/order_late", "An order that is late.", ("FR-2", "FR-10")),
        Published("shop/nobody_needs", "", ()),
        Published("shop/" + "very_long_" * 6 + "name", "Long.", ("FR-11",)),
    ]
    histories = [
        History(
            nodeid=f"tests/test_shop.py::test_{number}[{HOSTILE}]",
            scenario=published[number % 2].key,
            requirement_ids=published[number % 2].requirement_ids,
            outcome=outcomes[number % len(outcomes)],
            at=AT,
            session="build-812",
            test_run_id=f"01K0ABCDEF0123456789{number:06d}",
            passed=2,
            failed=number % 3,
            skipped=1,
            flaky=number % 4 == 0,
        )
        for number in range(tests)
    ]
    found = coverage_of(published, histories)
    return as_json(found, database="shop_test", since=AT, session=None)
