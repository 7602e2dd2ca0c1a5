"""A Parquet file is read once: its rows and its checksum come from the same bytes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from atdm_resources.store.files import Store
from atdm_resources.store.parquet import (
    DamagedFileError,
    parquet_writer,
    read_batches,
    read_checked,
)

ROWS = pa.table(
    {
        "id": list(range(5_000)),
        "name": [f"name {number % 97}" for number in range(5_000)],
        "long": [f"a text of its own {number * 7919}" for number in range(5_000)],
        "maybe": [None if number % 3 else number * 0.5 for number in range(5_000)],
    }
)
PATH = "one.parquet"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path.as_uri())


def written(store: Store, rows: pa.Table) -> str:
    with parquet_writer(store, PATH, rows.schema, group_rows=700) as writer:
        writer.write(rows)
    return writer.sha256


@pytest.mark.parametrize("rows", [ROWS, ROWS.slice(0, 1), ROWS.slice(0, 0)], ids=len)
def test_the_rows_are_those_of_the_usual_reader(store: Store, rows: pa.Table) -> None:
    checksum = written(store, rows)
    found = list(read_checked(store, PATH, checksum, 300))
    assert pa.Table.from_batches(found, rows.schema).equals(rows)
    assert sum(batch.num_rows for batch in read_batches(store, PATH)) == rows.num_rows
    assert max((batch.num_rows for batch in found), default=0) <= 300


def test_every_flipped_bit_and_every_cut_is_found(store: Store, tmp_path: Path) -> None:
    checksum = written(store, ROWS)
    content = (tmp_path / PATH).read_bytes()
    places = [*range(0, len(content), len(content) // 40), *range(len(content) - 12, len(content))]
    damaged = [
        content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :] for place in places
    ]
    damaged += [content[:place] for place in places] + [content + b"x"]
    for wrong in damaged:
        (tmp_path / PATH).write_bytes(wrong)
        with pytest.raises(DamagedFileError):
            list(read_checked(store, PATH, checksum))
