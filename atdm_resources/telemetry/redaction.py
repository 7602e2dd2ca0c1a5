"""Passwords and tokens become ``***`` in texts, values and URLs.

Light: the standard library alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

REDACTED: Final = "***"

_SECRET_NAME = (
    r"[\w.-]*(?:password|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key)[\w.-]*"
)
# Texts, which ``re`` compiles when they are first used: a lease imports this module.
_PATTERNS: Final = (
    # A cleanup token as ``atdm.new_token()`` makes it: 256 bits.
    (r"atdm_[A-Za-z0-9_-]{43,}", REDACTED),
    # Up to the last @ before a blank: a password can hold any other character, encoded or not.
    (r"(\w://[^\s:/@\"']*:)\S*@", rf"\1{REDACTED}@"),
    (
        rf"(?i)\b({_SECRET_NAME}\s*=\s*)(\"[^\"]*\"|'(?:[^'\\]|\\.)*'|[^\s&,;)\]}}\"']+)",
        rf"\1{REDACTED}",
    ),
    (
        rf"(?i)([\"']{_SECRET_NAME}[\"']\s*:\s*)(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')",
        rf'\1"{REDACTED}"',
    ),
    (r"\b((?:Bearer|Basic)\s+)[A-Za-z0-9+/=._~-]{8,}", rf"\1{REDACTED}"),
)
_URLS: Final = ("ATDM_DATABASE_URL", "ATDM_DAGSTER_DATABASE_URL")
_VARIABLES: Final = (
    "ATDM_OWNER_SECRET", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
)  # fmt: skip
_SHORTEST = 6
"""A shorter secret is found by its place only: elsewhere it can be an ordinary word."""


def known_secrets(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The secrets in the variables of the environment, plain and encoded, the longest first."""
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


def redact_url(url: str) -> str:
    """``url`` without the passwords in its authority and in its parameters."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    user, at, host = parts.netloc.rpartition("@")
    if user.partition(":")[2]:
        user = f"{user.partition(':')[0]}:{REDACTED}"
    query = re.sub(r"((?:^|&)(?:password|sslpassword)=)[^&]*", rf"\1{REDACTED}", parts.query)
    return urlunsplit(parts._replace(netloc=f"{user}{at}{host}", query=query))


def redact_text(text: str, secrets: tuple[str, ...] = ()) -> str:
    """``text`` without tokens, passwords in URLs, values named as secrets, and ``secrets``."""
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    for pattern, instead in _PATTERNS:
        text = re.sub(pattern, instead, text)
    return text


def redact_value(value: Any, secrets: tuple[str, ...] = (), depth: int = 20) -> Any:
    """``value`` with every text in it redacted: keys and items of mappings and sequences.

    Any other object, and what is nested deeper than ``depth``, becomes its text.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value).decode("utf-8", "replace")
    if depth > 0 and isinstance(value, Mapping):
        return {
            redact_text(str(key), secrets): REDACTED
            if item not in (None, "") and re.fullmatch(_SECRET_NAME, str(key), re.IGNORECASE)
            else redact_value(item, secrets, depth - 1)
            for key, item in value.items()
        }
    if depth > 0 and isinstance(value, list | tuple | set | frozenset):
        return [redact_value(item, secrets, depth - 1) for item in value]
    return redact_text(str(value), secrets)
