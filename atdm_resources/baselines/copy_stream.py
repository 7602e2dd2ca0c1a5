"""What COPY sends to a client, in pieces of megabytes instead of row by row.

The server puts every row into a message of its own, and the driver hands out one at a time, which
costs three times as much as everything else about it. Here the messages of one COPY are read from
the connection's socket as they come, and their headers are taken out of a whole piece at once.

Belongs here: that one exchange with the server (PostgreSQL's frontend/backend protocol 3: simple
query, COPY out). Does not belong here: what the text means (``rows``). Encrypted connections go
through the driver.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import sql

PIECE_BYTES: Final = 4 * 1024 * 1024
_ROWS_A_PIECE = 32_768
_RECEIVE_BYTES = 1024 * 1024
_HEADER = 5
_STEPS = 64
_DATA, _ERROR, _READY = b"d"[0], b"E"[0], b"Z"[0]


def copied(conn: psycopg.Connection[Any], statement: sql.Composed) -> Iterator[bytes]:
    """What ``statement`` (COPY ... TO STDOUT in text or CSV format) sends, cut between rows.

    Whoever stops in the middle closes the connection: nothing else ends a COPY at once. Raises
    psycopg.Error as the server reports it.
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


def _row_by_row(conn: psycopg.Connection[Any], statement: sql.Composed) -> Iterator[bytes]:
    with conn.cursor().copy(statement) as copy:
        lines: list[Any] = []
        size = 0
        for line in copy:
            lines.append(line)
            size += len(line)
            if size >= PIECE_BYTES or len(lines) >= _ROWS_A_PIECE:
                yield b"".join(lines)
                lines, size = [], 0
        if lines:
            yield b"".join(lines)


def _streamed(conn: psycopg.Connection[Any], statement: bytes) -> Iterator[bytes]:
    """The exchange. Between statements the driver has nothing buffered, so the socket is ours."""
    query = statement + b"\0"
    message = b"Q" + struct.pack("!I", len(query) + 4) + query
    error: psycopg.Error | None = None
    buffer = bytearray()
    wanted = PIECE_BYTES
    # A duplicate, because closing it must not close the driver's own.
    with socket.socket(fileno=os.dup(conn.pgconn.socket)) as channel:
        _send(channel, message)
        while True:
            ended = _receive(channel, buffer)
            if len(buffer) < wanted and not _may_end(buffer) and not ended:
                continue
            payload, used, problem, ready = _taken_apart(buffer)
            error = error or problem
            del buffer[:used]
            # A row that is larger than a piece is not looked at again before it is there.
            first = _length(bytes(buffer[:_HEADER]), 0) + 1 if len(buffer) >= _HEADER else 0
            wanted = max(PIECE_BYTES, first)
            if payload and error is None:
                yield payload
            if ready:
                break
            if ended:
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


def _receive(channel: socket.socket, buffer: bytearray) -> bool:
    """Append what is there, at least something; True when the server has gone."""
    while True:
        _wait(channel, select.POLLIN)
        try:
            piece = channel.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            continue
        buffer += piece
        return not piece


def _wait(channel: socket.socket, what: int) -> None:
    waiting = select.poll()
    waiting.register(channel.fileno(), what)
    waiting.poll()


def _may_end(buffer: bytearray) -> bool:
    """Whether ReadyForQuery could be the last message: type, length 5, transaction status."""
    return buffer[-6:-1] == b"Z\0\0\0\5"


def _taken_apart(buffer: bytearray) -> tuple[bytes, int, psycopg.Error | None, bool]:
    """The rows in whole messages of ``buffer``; how many bytes were used; an error; the end."""
    parts: list[bytes] = []
    error: psycopg.Error | None = None
    place = 0
    content = bytes(buffer)
    while place + _HEADER <= len(content):
        if content[place] == _DATA:
            payload, after = _run_of_rows(content, place)
            if after == place:
                break
            parts.append(payload)
            place = after
            continue
        end = place + 1 + _length(content, place)
        if end > len(content):
            break
        kind, body = content[place], content[place + _HEADER : end]
        place = end
        if kind == _ERROR:
            error = _error(body)
        elif kind == _READY:
            return b"".join(parts), place, error, True
    return b"".join(parts), place, error, False


def _run_of_rows(content: bytes, place: int) -> tuple[bytes, int]:
    """The rows of consecutive messages from ``place`` on, and where the next message starts.

    A header is ``d`` and a length whose first byte is 0; the text of a row never holds a 0. So the
    pairs found are headers, or (rarely) lengths that look like one: then the next header is not
    where its predecessor says, and the run ends before it.
    """
    bytes_ = np.frombuffer(content, np.uint8, offset=place)
    zeros = np.flatnonzero(bytes_[1:-3] == 0)
    heads = zeros[bytes_[zeros] == _DATA]
    lengths = sum(bytes_[heads + 1 + k].astype(np.int64) << (24 - 8 * k) for k in range(4))
    after = heads + 1 + lengths
    whole = after <= len(bytes_)
    fits = np.ones(len(heads), bool)
    fits[1:] = after[:-1] == heads[1:]
    good = fits & whole
    count = len(good) if good.all() else int(np.argmin(good))
    if not len(heads) or heads[0] != 0 or count < _STEPS:
        return _walked(content, place)
    end = int(after[count - 1])
    kept = np.ones(end, bool)
    for k in range(_HEADER):
        kept[heads[:count] + k] = False
    return bytes_[:end][kept].tobytes(), place + end


def _walked(content: bytes, place: int) -> tuple[bytes, int]:
    """The same, message by message, for a few of them."""
    parts = []
    for _ in range(_STEPS):
        if place + _HEADER > len(content) or content[place] != _DATA:
            break
        end = place + 1 + _length(content, place)
        if end > len(content):
            break
        parts.append(content[place + _HEADER : end])
        place = end
    return b"".join(parts), place


def _length(content: bytes, place: int) -> int:
    return int.from_bytes(content[place + 1 : place + _HEADER], "big")


def _error(body: bytes) -> psycopg.Error:
    """An ErrorResponse as the exception that the driver would have raised."""
    fields = {
        part[:1].decode("ascii"): part[1:].decode("utf-8", "replace")
        for part in body.split(b"\0")
        if part
    }
    said = fields.get("M", "COPY failed")
    if "D" in fields:
        said += f" ({fields['D']})"
    try:
        return psycopg.errors.lookup(fields.get("C", ""))(said)
    except KeyError:
        return psycopg.DatabaseError(said)
