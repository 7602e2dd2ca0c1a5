"""Request ids, run ids and the keys that follow from them.

A request id is a ULID (26 Crockford base 32 characters) whose last six are zero; run number n
(1-based) writes n there. So a run's request is known without a lookup, ids sort by time, and row
k of a table has the key ``<prefix>-<run id>`` (k = 0) or ``<prefix>-<run id>-<k>`` (requirement
A-ID-03).

The scalar functions need the standard library alone, so that a lease does not pay for numpy.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from atdm_engine.errors import AtdmError, ErrorCode

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no I, L, O, U."""

RUN_DIGITS = 6
MAX_RUNS = 32**RUN_DIGITS - 1
"""The largest run number: six base 32 digits, zero being the request itself."""

RUN_COLUMN = "test_run_id"
"""The column that ATDM adds to every table: the id of the run that the row belongs to."""

_LABEL = "[A-Za-z0-9_-]{1,64}"
_ID = re.compile(rf"[0-7][{ALPHABET}]{{25}}\Z")
_HEAD = 26 - RUN_DIGITS
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

ENTROPY_BYTES = 10
"""Random bytes that a new id takes; the last 30 bits give way to the run number."""


def check_label(label: str) -> str:
    """Return ``label`` if it can name a request: ``[A-Za-z0-9_-]{1,64}``.

    A label becomes a partition key and part of paths.

    Raises:
        AtdmError: REQUEST_INVALID for anything else, for example a path.
    """
    if not re.fullmatch(_LABEL, label):
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"{label!r} cannot name a request; allowed: 1 to 64 of A-Z a-z 0-9 _ -",
            {"label": label[:200], "allowed": _LABEL},
        )
    return label


def new_request_id(now: datetime, entropy: bytes) -> str:
    """A new request id for the moment ``now`` (aware) from ``ENTROPY_BYTES`` random bytes.

    The bytes come from the caller: ids that a library counts up within one millisecond differ
    in the very digits that stand for the run.
    """
    from ulid import ULID

    if now.tzinfo is None:
        raise ValueError("a request's time needs a time zone")
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"a request id needs {ENTROPY_BYTES} random bytes, not {len(entropy)}")
    # Whole numbers: a timestamp() times 1000 falls short of some milliseconds.
    milliseconds = ((now - _EPOCH) // timedelta(milliseconds=1)).to_bytes(6, "big")
    return str(ULID.from_bytes(milliseconds + entropy))[:_HEAD] + "0" * RUN_DIGITS


def is_request_id(text: str) -> bool:
    """Whether ``text`` has the form of a request id."""
    return bool(_ID.match(text)) and text[_HEAD:] == "0" * RUN_DIGITS


def is_run_id(text: str) -> bool:
    """Whether ``text`` has the form of a run id."""
    return bool(_ID.match(text)) and text[_HEAD:] != "0" * RUN_DIGITS


def run_id(request_id: str, number: int) -> str:
    """The id of run ``number`` (1-based) of a request."""
    _require_request(request_id)
    if not 1 <= number <= MAX_RUNS:
        raise ValueError(f"run number {number} is not between 1 and {MAX_RUNS}")
    digits = "".join(ALPHABET[(number >> shift) & 31] for shift in range(25, -1, -5))
    return request_id[:_HEAD] + digits


def request_of(test_run_id: str) -> str:
    """The request id of a run id."""
    if not _ID.match(test_run_id):
        raise ValueError(f"{test_run_id!r} is no run id")
    return test_run_id[:_HEAD] + "0" * RUN_DIGITS


def run_number(test_run_id: str) -> int:
    """The number of a run within its request, from 1 (0 for a request id)."""
    if not _ID.match(test_run_id):
        raise ValueError(f"{test_run_id!r} is no run id")
    number = 0
    for digit in test_run_id[_HEAD:]:
        number = number * 32 + ALPHABET.index(digit)
    return number


def time_of(request_id: str) -> datetime:
    """The moment (UTC, milliseconds) that a request id or run id carries."""
    if not _ID.match(request_id):
        raise ValueError(f"{request_id!r} is no request id")
    milliseconds = 0
    for digit in request_id[:10]:
        milliseconds = milliseconds * 32 + ALPHABET.index(digit)
    seconds, rest = divmod(milliseconds, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000)


def least_id(moment: datetime) -> str:
    """The least id of ``moment`` (aware): later ids are not less, every earlier one is."""
    milliseconds = -((_EPOCH - moment) // timedelta(milliseconds=1))
    bounded = min(max(milliseconds, 0), 2**48 - 1)
    return "".join(ALPHABET[(bounded >> shift) & 31] for shift in range(45, -1, -5))


def _require_request(request_id: str) -> None:
    if not is_request_id(request_id):
        raise ValueError(f"{request_id!r} is no request id: a ULID ending in {'0' * RUN_DIGITS}")


@lru_cache(maxsize=1)
def _digit_pairs() -> NDArray[np.uint16]:
    """Two base 32 digits as one 16-bit word, for 0..1023."""
    import numpy as np

    letters = np.frombuffer(ALPHABET.encode(), np.uint8)
    pairs = np.empty((1024, 2), np.uint8)
    pairs[:, 0] = np.repeat(letters, 32)
    pairs[:, 1] = np.tile(letters, 32)
    return pairs.view(np.uint16)[:, 0]


def run_digits(numbers: NDArray[Any]) -> NDArray[np.uint8]:
    """The last six characters of the run ids of ``numbers``, as a matrix of bytes."""
    import numpy as np

    pairs = _digit_pairs()
    digits = np.empty((len(numbers), 3), np.uint16)
    for column, shift in enumerate((20, 10, 0)):
        np.take(pairs, (numbers >> shift) & 1023, out=digits[:, column])
    return digits.view(np.uint8)


def run_id_array(request_id: str, numbers: NDArray[Any]) -> pa.StringArray:
    """The run ids of run ``numbers`` as an Arrow text column."""
    _require_request(request_id)
    return _fixed(request_id[:_HEAD], numbers)


def key_array(
    prefix: str, request_id: str, numbers: NDArray[Any], row_index: NDArray[Any] | int
) -> pa.StringArray:
    """The keys of rows ``row_index`` (within their runs) of runs ``numbers``, as Arrow text."""
    import numpy as np

    from atdm_engine.arrow.text_columns import joined

    _require_request(request_id)
    head = f"{prefix}-{request_id[:_HEAD]}"
    rows = np.asarray(row_index)
    if not rows.any():
        return _fixed(head, numbers)
    if rows.ndim == 0:
        rows = np.full(len(numbers), rows)
    suffix = _row_suffixes(rows)
    return joined([head.encode(), run_digits(numbers), suffix], len(numbers))


def _row_suffixes(rows: NDArray[Any]) -> NDArray[Any]:
    """``-k`` for row k, nothing for row 0, as fixed-size byte strings."""
    import numpy as np

    most = int(rows.max())
    if most < 100_000:
        # Few distinct numbers: format each once.
        table = np.array([b"", *(b"-%d" % number for number in range(1, most + 1))], "S")
        suffixes: NDArray[Any] = table[rows]
        return suffixes
    distinct, index = np.unique(rows, return_inverse=True)
    table = np.array([b"-%d" % number if number else b"" for number in distinct.tolist()], "S")
    return table[index]


def _fixed(head: str, numbers: NDArray[Any]) -> pa.StringArray:
    import numpy as np

    from atdm_engine.arrow.text_columns import from_matrix

    data = head.encode("ascii")
    matrix = np.empty((len(numbers), len(data) + RUN_DIGITS), np.uint8)
    matrix[:, : len(data)] = np.frombuffer(data, np.uint8)
    matrix[:, len(data) :] = run_digits(numbers)
    return from_matrix(matrix)


def run_number_array(run_ids: pa.StringArray) -> NDArray[np.int64]:
    """The run numbers of an Arrow column of run ids; -1 where a value is NULL or no run id."""
    import numpy as np

    from atdm_engine.arrow.text_columns import starts_and_lengths

    data, starts, lengths = starts_and_lengths(run_ids)
    values = np.full(256, -1, np.int64)
    values[np.frombuffer(ALPHABET.encode(), np.uint8)] = np.arange(32)
    numbers = np.full(len(run_ids), -1, np.int64)
    whole = np.flatnonzero(lengths == 26)
    total = np.zeros(len(whole), np.int64)
    valid = np.ones(len(whole), bool)
    for position in range(_HEAD, 26):
        digit = values[data[starts[whole] + position]]
        valid &= digit >= 0
        total = total * 32 + digit
    numbers[whole[valid]] = total[valid]
    return numbers
