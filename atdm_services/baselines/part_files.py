"""The Parquet files of a baseline: written with their checksum, read back in bounded batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pyarrow as pa

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.store.files import Store
from atdm_resources.store.parquet import DamagedFileError, ParquetWriter, read_checked
from atdm_services.baselines.manifest import BaselineFiles, PartFile

GROUP_BYTES: Final = 32 * 1024 * 1024
"""What a row group may hold in memory: rows of an application can be of any width."""


def part_file(files: BaselineFiles, written: ParquetWriter) -> PartFile:
    """The entry of a finished file in the manifest."""
    return PartFile(
        path=files.relative(written.path),
        rows=written.rows,
        bytes=written.bytes,
        sha256=written.sha256,
    )


def part_batches(store: Store, files: BaselineFiles, part: PartFile) -> Iterator[pa.RecordBatch]:
    """The rows of a file, with its checksum verified after the last of them.

    Raises:
        AtdmError: BASELINE_INVALID, the file is damaged; STORE_FAILED.
    """
    try:
        yield from read_checked(store, files.full(part), part.sha256)
    except DamagedFileError as error:
        uri = store.uri(files.full(part))
        raise AtdmError(
            ErrorCode.BASELINE_INVALID,
            f"{uri}: {error}",
            {"baseline_id": files.baseline_id, "path": uri, "reason": str(error)},
        ) from error


def table_batches(
    store: Store, files: BaselineFiles, parts: tuple[PartFile, ...]
) -> Iterator[pa.RecordBatch]:
    """The rows of a table's files, in order."""
    for part in parts:
        yield from part_batches(store, files, part)


def file_problem(store: Store, files: BaselineFiles, part: PartFile) -> str | None:
    """What is wrong with a file (missing, cut off, changed), None when it is as it was written."""
    path = files.full(part)
    if not store.exists(path):
        return f"{part.path}: the file is missing"
    if (size := store.size(path)) != part.bytes:
        return f"{part.path}: {size} bytes, {part.bytes} were written"
    if store.sha256(path) != part.sha256:
        return f"{part.path}: the checksum does not match"
    return None
