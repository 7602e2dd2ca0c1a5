"""Which test run is made again, where, and for whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """A test run to make again.

    ``run`` is its id (or the request of a single run). ``spec`` is a file that ``--print-spec``
    wrote, instead of ``run`` or with it. ``into`` is the URL of another database. ``prove`` makes
    the whole request again to compare its hash; None: where the request is small. ``owner`` None
    means the invoker, ``ttl`` None the scenario's own.
    """

    run: str | None = None
    spec: Path | None = None
    into: str | None = None
    prove: bool | None = None
    owner: str | None = None
    owner_secret: str | None = field(default=None, repr=False)
    ttl: timedelta | None = None
    reason: str = ""
    source: str = "cli"
