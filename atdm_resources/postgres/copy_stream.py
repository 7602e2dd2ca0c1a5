"""The output of COPY in pieces of megabytes instead of row by row (ADR 0023).

The server sends every row as one message, and the driver returns one message at a time, which costs
three times as much as the rest. Here the messages of one COPY are read from the connection's
socket, and the headers are removed from a whole piece at once.

Encrypted connections use the driver.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from psycopg import sql

PIECE_BYTES: Final = 2 * 1024 * 1024
_ROWS_A_PIECE = 32_768
_LITTLE_BYTES = 65_536
_PAUSE_SECONDS = 0.0003
_HEADER = 5
_STEPS = 64
_DATA, _ERROR, _READY = b"d"[0], b"E"[0], b"Z"[0]
_READY_MESSAGE = b"Z\0\0\0\5"


def copied(conn: psycopg.Connection[Any], statement: sql.Composed) -> Iterator[pa.Buffer]:
    """The output of ``statement`` (COPY ... TO STDOUT in text or CSV format), cut between rows.

    A caller that stops early closes the connection, because nothing else ends a COPY at once.
    Raises psycopg.Error as the server reports it.
    """
    if conn.pgconn.ssl_in_use or conn.pgconn.used_gssapi or not hasattr(select, "poll"):
        yield from _row_by_row(conn, statement)
        return
    finished = False
    try:
        with conn.lock:
            yield from _streamed(conn, statement.as_bytes(conn))
        finished = True
    except psycopg.Error:
        finished = not conn.broken
        raise
    finally:
        if not finished:
            conn.close()


def _row_by_row(conn: psycopg.Connection[Any], statement: sql.Composed) -> Iterator[pa.Buffer]:
    with conn.cursor().copy(statement) as copy:
        lines: list[Any] = []
        size = 0
        for line in copy:
            lines.append(line)
            size += len(line)
            if size >= PIECE_BYTES or len(lines) >= _ROWS_A_PIECE:
                yield pa.py_buffer(b"".join(lines))
                lines, size = [], 0
        if lines:
            yield pa.py_buffer(b"".join(lines))


def _streamed(conn: psycopg.Connection[Any], statement: bytes) -> Iterator[pa.Buffer]:
    """Send the query and read its messages. Between statements the driver has nothing buffered."""
    query = statement + b"\0"
    error: psycopg.Error | None = None
    # One buffer for everything: fresh memory costs as much as copying the data.
    buffer = np.empty(PIECE_BYTES, np.uint8)
    filled = 0
    # A duplicate, because closing it must not close the driver's own.
    with socket.socket(fileno=os.dup(conn.pgconn.socket)) as channel:
        _send(channel, b"Q" + struct.pack("!I", len(query) + 4) + query)
        while True:
            count = _receive(channel, buffer[filled:].data)
            filled += count
            if count and filled < len(buffer) and not _may_end(buffer, filled):
                if count < _LITTLE_BYTES:
                    # The server sends 8 KiB at a time. A short wait for many of them costs both
                    # sides less than being woken for each.
                    time.sleep(_PAUSE_SECONDS)
                continue
            payload, used, problem, ready = _taken_apart(buffer[:filled])
            error = error or problem
            # A row that is larger than the buffer is looked at again when it is complete.
            wanted = _length(buffer, used) + 1 if filled - used >= _HEADER else 0
            filled -= used
            rest = buffer[used : used + filled]
            if len(buffer) < wanted or len(buffer) > PIECE_BYTES >= wanted:
                buffer = np.empty(max(PIECE_BYTES, wanted), np.uint8)
                buffer[:filled] = rest
            elif used:
                buffer[:filled] = rest.copy()
            if error is None:
                yield from payload
            if ready:
                break
            if not count:
                raise psycopg.OperationalError("the server closed the connection during COPY")
    if error is not None:
        raise error


def _send(channel: socket.socket, message: bytes) -> None:
    view = memoryview(message)
    while view:
        _wait(channel, select.POLLOUT)
        try:
            view = view[channel.send(view) :]
        except BlockingIOError:
            continue


def _receive(channel: socket.socket, room: memoryview) -> int:
    """Read at least one byte into ``room``; 0 when the server has closed the connection."""
    while True:
        try:
            return channel.recv_into(room)
        except BlockingIOError:
            _wait(channel, select.POLLIN)


def _wait(channel: socket.socket, what: int) -> None:
    waiting = select.poll()
    waiting.register(channel.fileno(), what)
    waiting.poll()


def _may_end(buffer: NDArray[np.uint8], filled: int) -> bool:
    """Whether ReadyForQuery could be the last message: type, length 5, transaction status."""
    return buffer[max(0, filled - 6) : filled - 1].tobytes() == _READY_MESSAGE


def _taken_apart(
    content: NDArray[np.uint8],
) -> tuple[list[pa.Buffer], int, psycopg.Error | None, bool]:
    """The rows in whole messages of ``content``, the bytes used, an error, whether it ends."""
    rows: list[pa.Buffer] = []
    error: psycopg.Error | None = None
    place = 0
    while place + _HEADER <= len(content):
        if content[place] == _DATA:
            payload, after = _run_of_rows(content, place)
            if after == place:
                break
            rows.append(payload)
            place = after
            continue
        end = place + 1 + _length(content, place)
        if end > len(content):
            break
        kind, body = content[place], content[place + _HEADER : end].tobytes()
        place = end
        if kind == _ERROR:
            error = _error(body)
        elif kind == _READY:
            return rows, place, error, True
    return rows, place, error, False


def _run_of_rows(content: NDArray[np.uint8], place: int) -> tuple[pa.Buffer, int]:
    """The rows of consecutive messages from ``place`` on, and where the next message starts.

    A header is ``d`` and a length whose first byte is 0; the text of a row has no byte 0. So each
    pair that is found is a header, or (rarely) a length that looks like one: then the next header
    is not where the length says, and the run ends before it.
    """
    content = content[place:]
    zeros = np.flatnonzero(content[1:-3] == 0)
    heads = zeros[content[zeros] == _DATA]
    # A number at every byte: no copy of them, whatever their alignment.
    numbers = np.ndarray((max(0, len(content) - 3),), ">u4", content, strides=(1,))
    after = heads + 1 + numbers[heads + 1]
    good = after <= len(content)
    good[1:] &= after[:-1] == heads[1:]
    count = len(good) if good.all() else int(np.argmin(good))
    if not len(heads) or heads[0] != 0 or count < _STEPS:
        payload, used = _walked(content)
        return payload, place + used
    end = int(after[count - 1])
    messages = np.empty(count + 1, np.int32)
    messages[:-1] = heads[:count]
    messages[-1] = end
    # For Arrow the messages are values, whose first bytes are cut off.
    framed = pa.Array.from_buffers(
        pa.binary(), count, [None, pa.py_buffer(messages), pa.py_buffer(content[:end])]
    )
    rows = pc.binary_replace_slice(framed, 0, _HEADER, b"").buffers()[2]
    return rows.slice(0, end - count * _HEADER), place + end


def _walked(content: NDArray[np.uint8]) -> tuple[pa.Buffer, int]:
    """The same, message by message, for a few messages."""
    parts = []
    place = 0
    for _ in range(_STEPS):
        if place + _HEADER > len(content) or content[place] != _DATA:
            break
        end = place + 1 + _length(content, place)
        if end > len(content):
            break
        parts.append(content[place + _HEADER : end].tobytes())
        place = end
    return pa.py_buffer(b"".join(parts)), place


def _length(content: NDArray[np.uint8], place: int) -> int:
    return int.from_bytes(content[place + 1 : place + _HEADER].tobytes(), "big")


def _error(body: bytes) -> psycopg.Error:
    """An ErrorResponse as the exception that the driver would have raised."""
    fields = {
        part[:1].decode("ascii"): part[1:].decode("utf-8", "replace")
        for part in body.split(b"\0")
        if part
    }
    message = fields.get("M", "COPY failed")
    if "D" in fields:
        message += f" ({fields['D']})"
    try:
        return psycopg.errors.lookup(fields.get("C", ""))(message)
    except KeyError:
        return psycopg.DatabaseError(message)
