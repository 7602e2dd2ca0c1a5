"""Passwords and tokens as ``***``, in whatever they have got into.

Light: the standard library alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

MASK: Final = "***"

TOKEN: Final = re.compile(r"atdm_[A-Za-z0-9_-]{43,}")
"""A cleanup token as ``atdm.new_token()`` makes it: 256 bits."""

_SECRET_NAME = (
    r"[\w.-]*(?:password|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key)[\w.-]*"
)
_SECRET_KEY = re.compile(rf"{_SECRET_NAME}\Z", re.IGNORECASE)
_PATTERNS: Final = (
    (TOKEN, MASK),
    # To the last @ before a blank: a password may hold any other character, encoded or not.
    (re.compile(r"(\w://[^\s:/@\"']*:)\S*@"), rf"\1{MASK}@"),
    (
        re.compile(
            rf"\b({_SECRET_NAME}\s*=\s*)(\"[^\"]*\"|'(?:[^'\\]|\\.)*'|[^\s&,;)\]}}\"']+)",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (
        re.compile(
            rf"([\"']{_SECRET_NAME}[\"']\s*:\s*)(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')",
            re.IGNORECASE,
        ),
        rf'\1"{MASK}"',
    ),
    (re.compile(r"\b((?:Bearer|Basic)\s+)[A-Za-z0-9+/=._~-]{8,}"), rf"\1{MASK}"),
)
_URLS: Final = ("ATDM_DATABASE_URL", "ATDM_DAGSTER_DATABASE_URL")
_VARIABLES: Final = (
    "ATDM_OWNER_SECRET", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
)  # fmt: skip
_SHORTEST = 6
"""A secret of fewer characters is found by its place only: as a text it could be any word."""


def known_secrets(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Secrets that the environment names, in every way they may be written, the longest first."""
    source = os.environ if environ is None else environ
    found = {source.get(name, "") for name in _VARIABLES}
    for name in _URLS:
        try:
            found.add(urlsplit(source.get(name, "")).password or "")
        except ValueError:
            continue
    written = set()
    for secret in found:
        plain = unquote(secret)
        written |= {secret, plain, quote(plain, safe=""), repr(plain)[1:-1]}
    return tuple(sorted((text for text in written if len(text) >= _SHORTEST), key=len)[::-1])


def masked_text(text: str, secrets: tuple[str, ...] = ()) -> str:
    """``text`` without tokens, passwords in URLs, what is called a secret, and ``secrets``."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def masked_value(value: Any, secrets: tuple[str, ...] = (), depth: int = 20) -> Any:
    """``value`` with every text in it masked: keys and items of mappings and sequences.

    What is none of those, or lies deeper than ``depth``, becomes its text.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value).decode("utf-8", "replace")
    if depth > 0 and isinstance(value, Mapping):
        return {
            masked_text(str(key), secrets): MASK
            if item not in (None, "") and is_secret_name(str(key))
            else masked_value(item, secrets, depth - 1)
            for key, item in value.items()
        }
    if depth > 0 and isinstance(value, list | tuple | set | frozenset):
        return [masked_value(item, secrets, depth - 1) for item in value]
    return masked_text(str(value), secrets)


def is_secret_name(name: str) -> bool:
    """Whether what is called so is a secret."""
    return bool(_SECRET_KEY.match(name))
