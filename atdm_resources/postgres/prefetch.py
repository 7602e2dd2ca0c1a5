"""Making the next item while the caller works on the one before it."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")

_END = object()


def prefetch(items: Iterable[Item]) -> Generator[Item, None, None]:
    """``items``, each made in a thread while the caller works on the one before it.

    When the caller stops early, ``items`` is closed after the item that is being made.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="atdm-prefetch") as pool:
        coming = pool.submit(next, iterator, _END)
        try:
            while (item := coming.result()) is not _END:
                coming = pool.submit(next, iterator, _END)
                yield item  # type: ignore[misc]
        finally:
            coming.exception()
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
