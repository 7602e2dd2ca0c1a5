"""Vocabularies: frozen lists of words, one file for each locale and provider.

A file is a header line ``# sha256: <hex digest of everything below>`` and then one word a line.
Words are frozen because a Faker release may reorder or change its lists, and a seed must give the
same data for ever; a file changed by hand without its digest is refused. To extend one, append at
its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from atdm_engine.errors import Problem, SpecError

_HEADER = "# sha256: "


def parse_words(path: str, text: str) -> tuple[str, ...]:
    """The words of a vocabulary file; SpecError when its digest does not match or a word is odd."""
    header, _, body = text.partition("\n")
    digest = hashlib.sha256(body.encode("utf-8")).hexdigest()
    if not header.startswith(_HEADER):
        raise SpecError([Problem(path, 1, "sha256", repr(header[:40]), f"{_HEADER}<hex digest>")])
    found = header.removeprefix(_HEADER).strip()
    if found != digest:
        allowed = f"{digest} (the words differ from those that were frozen)"
        raise SpecError([Problem(path, 1, "sha256", found, allowed)])
    words = tuple(body.removesuffix("\n").split("\n")) if body else ()
    problems = [
        Problem(path, number, "word", repr(word), "a word without blanks at its ends, once")
        for number, word in enumerate(words, start=2)
        if not word or word != word.strip() or "\0" in word
    ]
    if len(set(words)) != len(words):
        twice = next(word for number, word in enumerate(words) if word in words[:number])
        problems.append(Problem(path, 0, "word", f"{twice!r} twice", "every word once"))
    if not words:
        problems.append(Problem(path, 0, "word", "none", "at least one word"))
    if problems:
        raise SpecError(problems)
    return words


def format_words(words: Sequence[str]) -> str:
    """The text of a vocabulary file with these words, in their order."""
    body = "".join(f"{word}\n" for word in words)
    return f"{_HEADER}{hashlib.sha256(body.encode('utf-8')).hexdigest()}\n{body}"


def draw_words(provider: str, locale: str, count: int, seed: int = 0) -> tuple[str, ...]:
    """Up to ``count`` different words of a Faker provider, in the order in which they come.

    For maintenance only: needs Faker, is slow, and depends on its release. Fewer words come back
    when the provider has no more.
    """
    from faker import Faker

    source = Faker(locale)
    source.seed_instance(seed)
    make = getattr(source, provider, None)
    if make is None:
        raise ValueError(f"Faker has no provider {provider!r} for locale {locale}")
    words: dict[str, None] = {}
    misses = 0
    while len(words) < count and misses < 100 * count:
        word = " ".join(str(make()).split())
        misses += word in words or not word
        if word:
            words.setdefault(word)
    return tuple(words)
