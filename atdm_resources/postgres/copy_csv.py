"""Arrow record batches as the CSV that PostgreSQL's COPY reads, vectorised."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

_OPTIONS = pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")


def copy_csv(batch: pa.RecordBatch | pa.Table) -> pa.Buffer:
    """The rows of ``batch`` for ``COPY ... FROM STDIN (FORMAT csv)``.

    Text is quoted, NULL is an empty field without quotes: the empty text and NULL stay apart.
    """
    columns = [_as_text(column) for column in batch.columns]
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(pa.table(columns, names=batch.schema.names), sink, _OPTIONS)
    return sink.getvalue()


def _as_text(column: Any) -> Any:
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        if isinstance(column, pa.ChunkedArray):
            chunks = [_array_text(chunk) for chunk in column.chunks]
            return pa.chunked_array(chunks, type=pa.string())
        return _array_text(column)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        texts = [None if value is None else "\\x" + value.hex() for value in column.to_pylist()]
        return pa.array(texts, type=pa.string())
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    return column


def _array_text(column: pa.ListArray) -> pa.Array:
    """``{"a","b",NULL}`` for each list: all elements become text at once, then they are joined."""
    elements = column.flatten()
    if pa.types.is_string(elements.type) or pa.types.is_large_string(elements.type):
        escaped = pc.replace_substring(pc.replace_substring(elements, "\\", "\\\\"), '"', '\\"')
        texts = pc.binary_join_element_wise('"', escaped, '"', "")
    else:
        texts = elements.cast(pa.string())
        if pa.types.is_timestamp(elements.type):
            texts = pc.binary_join_element_wise('"', texts, '"', "")
    texts = pc.fill_null(texts, "NULL")
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    offsets = pa.concat_arrays(
        [pa.array([0], pa.int32()), pc.cumulative_sum(lengths.cast(pa.int32()))]
    )
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, texts), ",")
    wrapped = pc.binary_join_element_wise("{", joined, "}", "")
    return pc.if_else(pc.is_valid(column), wrapped, pa.scalar(None, pa.string()))
