"""Generators of texts: vocabulary words, patterns, running text."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atdm_engine.arrow.text_columns import from_matrix
from atdm_engine.generators.cells import Cells, Setting
from atdm_engine.generators.scalars import pooled
from atdm_engine.patterns.parser import PatternSpec, parse
from atdm_engine.random.stream import U64, below
from atdm_engine.spec.generators import Faker, Text
from atdm_engine.spec.vocabulary import pool_words

Luhn = Literal["valid", "invalid"]
NPI_SUM = 24
"""What the prefix 80840 adds to the Luhn sum of a National Provider Identifier."""

SUFFIX_DIGITS = 7
"""Base 36 digits that make a word unique."""

TEXT_WORDS = (  # noqa: SIM905 (so many quoted words would not read better)
    "able after again agree along always among answer area around arrive away base before begin "
    "behind between board bring build call carry case cause center change check choose clear "
    "close common consider continue cost course cover create current daily deal decide detail "
    "develop direct discuss early easy effect enough enter even exact example expect explain "
    "fact field final find first follow form full further general give good great grow half "
    "hand happen hard head help high hold hour house idea important include inform join keep "
    "kind know large last later lead learn leave level light line list little local long look "
    "main make many matter mean measure middle mind minute month more morning most move much "
    "name near need never next night notice number offer often open other over page part pass "
    "past pattern perhaps place plan point possible present price problem process produce "
    "provide public question quick raise range rate reach ready real reason receive recent "
    "reduce remain require rest result return right rule same second send serve several short "
    "show side simple since size small sort sound speak special stand start state step still "
    "story street strong study such support sure system table take talk tell test think time "
    "today together total toward train travel true turn type under unit until usual value "
    "various wait walk want watch week well whole wide wonder word work world write year young"
).split()
"""Words of running text; append only, or texts of a seed change."""


def faker(generator: Faker, cells: Cells) -> pa.Array:
    """A word of a frozen vocabulary."""
    words = faker_pool(generator, cells.setting)
    return pooled(words, cells.below(len(words)))


def faker_pool(generator: Faker, setting: Setting) -> pa.StringArray:
    """The words that a generator picks from."""
    form = generator.faker
    provider = form if isinstance(form, str) else form.provider
    locale = None if isinstance(form, str) else form.locale
    words = pool_words(setting.vocabularies, locale or setting.locale, provider)
    limit = None if isinstance(form, str) else form.pool
    return _array(words[:limit] if limit else words)


@lru_cache(maxsize=256)
def _array(words: tuple[str, ...]) -> pa.StringArray:
    return pa.array(words, pa.string())


def pattern(source: str, luhn: Luhn | None, cells: Cells) -> pa.Array:
    """A text of a pattern, each as likely as any other."""
    spec = parse(source)
    if luhn is not None:
        head = spec.without_last()
        return with_check_digit(
            head, cells.below(head.capacity), luhn, cells.derive("digit").bits()
        )
    if len(spec.pieces) == 1:
        return spec.unrank(cells.below(spec.capacity))
    parts = [
        piece.unrank(cells.derive(number).below(piece.capacity))
        for number, piece in enumerate(spec.pieces)
    ]
    return pc.binary_join_element_wise(*parts, "")


def with_check_digit(
    head: PatternSpec, indexes: NDArray[np.int64], luhn: Luhn, bits: U64
) -> pa.StringArray:
    """Digits and one more, so that the Luhn checksum holds, or neither it nor that of an NPI."""
    matrix = head.node.unrank(indexes)
    digits = matrix.astype(np.int64) - ord("0")
    total = np.zeros(len(indexes), np.int64)
    for place in range(digits.shape[1]):
        digit = digits[:, digits.shape[1] - 1 - place]
        doubled = digit * 2 if place % 2 == 0 else digit
        total += doubled - 9 * (doubled > 9)
    plain = -total % 10
    if luhn == "valid":
        last = plain
    else:
        # Two of the ten digits are wrong answers; count the other eight upwards around them.
        npi = -(total + NPI_SUM) % 10
        low, high = np.minimum(plain, npi), np.maximum(plain, npi)
        last = below(bits, 8).view(np.int64)
        last = last + (last >= low)
        last = last + (last >= high)
    return from_matrix(
        np.concatenate([matrix, (last + ord("0")).astype(np.uint8)[:, None]], axis=1)
    )


def text(generator: Text, cells: Cells) -> pa.Array:
    """A sentence of so many words."""
    least, most = generator.text.min_words, generator.text.max_words
    words = _array(tuple(TEXT_WORDS))
    length = cells.derive("words").below(most - least + 1) + least
    first = pc.utf8_capitalize(words).take(pa.array(cells.below(len(words))))
    spaced = pa.concat_arrays([pc.binary_join_element_wise(" ", words, ""), pa.array([""])])
    parts = [first]
    for number in range(1, most):
        index = cells.derive(number).below(len(words))
        parts.append(spaced.take(pa.array(np.where(number < length, index, len(words)))))
    return pc.binary_join_element_wise(*parts, ".", "")


def base36(values: NDArray[np.int64], digits: int = SUFFIX_DIGITS) -> NDArray[np.uint8]:
    """Numbers as base 36 digits, one number a row."""
    letters = np.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxyz", np.uint8)
    matrix = np.empty((len(values), digits), np.uint8)
    rest = values
    for place in range(digits - 1, -1, -1):
        rest, digit = np.divmod(rest, 36)
        matrix[:, place] = letters[digit]
    return matrix
