"""URLs: passwords are redacted in each of their places."""

from __future__ import annotations

import pytest

from atdm_resources.postgres.connection import libpq_url, unreachable
from atdm_resources.telemetry.redaction import redact_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@h:1/d", "postgresql://u:***@h:1/d"),
        ("postgresql://u:s%40cret@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d?password=secret&x=1", "postgresql://u@h/d?password=***&x=1"),
        ("postgresql://h/d?x=1&sslpassword=s", "postgresql://h/d?x=1&sslpassword=***"),
        ("postgresql://postgres@/atdm?host=%2Ftmp", "postgresql://postgres@/atdm?host=%2Ftmp"),
        ("postgresql://[bad", "(not a URL)"),
    ],
)
def test_a_password_is_redacted(url: str, shown: str) -> None:
    assert redact_url(url) == shown


def test_an_error_does_not_repeat_the_password() -> None:
    error = unreachable("postgresql://u:hunter2@h/d", ValueError("bad: hunter2 refused"))
    assert "hunter2" not in error.message
    assert "hunter2" not in str(error.details)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
def test_a_driver_in_the_url_is_ignored(driver: str) -> None:
    assert libpq_url(f"postgresql+{driver}://u@h/d") == "postgresql://u@h/d"
    assert libpq_url(f"postgres+{driver}://u@h/d") == "postgresql://u@h/d"
