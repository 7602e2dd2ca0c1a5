"""Secrets are found in texts and values of any shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atdm_resources.telemetry.redaction import REDACTED, known_secrets, redact_text, redact_value

TOKENS = st.text("ABCDEFGHabcdefgh0123456789_-", min_size=43, max_size=43).map("atdm_".__add__)
PASSWORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=8, max_size=30
)
AROUND = st.text(max_size=20)


@dataclass
class Carrier:
    """Something whose text holds a secret."""

    content: str


WRAPPINGS: tuple[Callable[[Any], Any], ...] = (
    lambda value: [1, value],
    lambda value: {"a": value, "b": None},
    lambda value: {repr(value): 1},
    lambda value: (value,),
    lambda value: {str(value)},
    Carrier,
    lambda value: ValueError("failed", value),
    lambda value: json.dumps(value, default=str),
    lambda value: repr(value).encode(),
    lambda value: bytearray(str(value).encode()),
)


def wrapped(text: str, wrappings: list[Callable[[Any], Any]]) -> Any:
    """``text`` inside what is inside what ..."""
    value: Any = text
    for wrapping in wrappings:
        value = wrapping(value)
    return value


ODD_PLACES = st.lists(st.sampled_from(WRAPPINGS), max_size=5)


@given(token=TOKENS, odd=ODD_PLACES, before=AROUND, after=AROUND)
def test_a_token_is_found_in_any_value(token: str, odd: Any, before: str, after: str) -> None:
    shown = redact_value(wrapped(f"{before}{token}{after}", odd))
    assert token not in json.dumps(shown)
    assert token not in repr(shown)


@given(token=TOKENS)
def test_a_token_is_found_among_the_keys(token: str) -> None:
    assert token not in json.dumps(redact_value({"runs": {token: {"ok": True}}}))


@given(password=PASSWORDS, odd=ODD_PLACES)
def test_a_password_in_a_url_is_found_in_any_value(password: str, odd: Any) -> None:
    plain = f"postgresql://user:{password}@db.example:5432/atdm"
    encoded = f"postgresql+psycopg2://user:{quote(password, safe='')}@db.example/atdm"
    for url in (plain, encoded):
        assert redact_text(url).startswith(f"{url.partition(':')[0]}://user:{REDACTED}@db.example")
        shown = repr(redact_value(wrapped(f"cannot connect to {url} now", odd)))
        assert f":{password}@" not in shown
        assert f":{quote(password, safe='')}@" not in shown


@given(password=PASSWORDS, before=AROUND, after=AROUND)
def test_what_the_environment_names_is_found_anywhere(
    password: str, before: str, after: str
) -> None:
    url = f"postgresql://u:{quote(password, safe='')}@h/d"
    secrets = known_secrets({"ATDM_DATABASE_URL": url, "ATDM_OWNER_SECRET": f"owner-{password}"})
    text = f"{before}{password} {quote(password, safe='')} owner-{password}{after}"
    assert password not in redact_text(text, secrets).replace(before, "").replace(after, "")


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:hunter22@h/d?sslmode=require",
        "host=h password=hunter22 dbname=d",
        "host=h password='hunter22 x' dbname=d",
        "PGPASSWORD=hunter22 psql",
        "https://h/?access_key=hunter22&x=1",
        "{'cleanup_token': 'hunter22'}",
        '{"owner_secret": "hunter22"}',
        "Authorization: Bearer hunter22hunter22",
        "AWS_SECRET_ACCESS_KEY=hunter22",
        "redis://:hunter22@h",
    ],
)
def test_ways_to_write_a_secret(text: str) -> None:
    assert "hunter22" not in redact_text(text)
    assert REDACTED in redact_text(text)


@pytest.mark.parametrize("name", ["password", "Token", "owner_secret", "AWS_ACCESS_KEY", "api-key"])
def test_what_is_called_a_secret_is_one(name: str) -> None:
    assert redact_value({name: "hunter22", "deeper": [{name: ["hunter22"]}]}) == {
        name: REDACTED,
        "deeper": [{name: REDACTED}],
    }


@pytest.mark.parametrize(
    "text",
    [
        "TOKEN_MISMATCH: the token does not fit the test run",
        "atdm_audit_write_latency_seconds_bucket",
        "see http://127.0.0.1:3000/runs?limit=20 or mail a@b.example",
        "m-01J8ZC2V7Q3R5T7W9YABCD000001",
        "2026-01-01T12:00:00+00:00",
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact_text(text) == text


def test_values_keep_their_shape() -> None:
    value = {"a": 1, "b": [True, None, 2.5, "x"], "token": None, "c": {"d": "e"}}
    assert redact_value(value) == value


def test_a_value_that_holds_itself_ends() -> None:
    value: list[Any] = []
    value.append(value)
    assert "..." in repr(redact_value(value))
