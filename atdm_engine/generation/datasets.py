"""The rows of a dataset, shard by shard.

A shard is a pure function of the dataset, its clock and the shard's number: shard 0 holds the
reference rows, shard k the test runs from ``(k - 1) * runs_per_shard + 1`` on. The rows belong to
no test run; their keys hold an identity that follows from the dataset's name alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from atdm_engine.generation.plan import GenerationPlan
from atdm_engine.generation.request import RequestSpec
from atdm_engine.model import Dataset, Domain, MixPart
from atdm_engine.random.run_ids import ALPHABET, RUN_COLUMN, RUN_DIGITS

REFERENCE_SHARD = 0

_TIME_DIGITS = 10
_NAME_DIGITS = 10


def dataset_id(domain: str, name: str) -> str:
    """The id that a dataset's keys hold in place of a request's id.

    It has the form of a request id of the first millisecond of 1970, which no request has, and 50
    bits of the dataset's name. So run n of a dataset has the same keys in every version.
    """
    digest = hashlib.blake2b(f"dataset:{domain}/{name}".encode(), digest_size=8).digest()
    bits = int.from_bytes(digest, "big")
    digits = "".join(ALPHABET[(bits >> 5 * place) & 31] for place in reversed(range(_NAME_DIGITS)))
    return "0" * _TIME_DIGITS + digits + "0" * RUN_DIGITS


@dataclass(frozen=True)
class Slice:
    """Runs ``first`` to ``last`` (both included) of one part of the mix."""

    part: MixPart
    first: int
    last: int


def slices(dataset: Dataset, shard: int) -> Iterator[Slice]:
    """The runs of a shard, part by part; ValueError when there is no such shard."""
    if not 1 <= shard <= dataset.shards:
        raise ValueError(f"shard {shard} is not within 1..{dataset.shards}")
    size = dataset.spec.runs_per_shard
    first, last = (shard - 1) * size + 1, min(shard * size, dataset.runs)
    for part in dataset.parts:
        begin, end = max(first, part.first), min(last, part.last)
        if begin <= end:
            yield Slice(part, begin, end)


def part_request(domain: Domain, dataset: Dataset, part: MixPart, as_of: datetime) -> RequestSpec:
    """A part of the mix as a request, on the clock ``as_of`` (aware)."""
    return RequestSpec(
        plan=GenerationPlan(domain, domain.scenarios[part.scenario], part.effective),
        request_id=dataset_id(domain.name, dataset.name),
        runs=part.last,
        seed=dataset.spec.seed,
        as_of=as_of.astimezone(UTC),
        given=part.given,
        number_base=part.number_base,
    )


def without_run_ids(tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """The rows as they are published: no reset of a test run may delete one of them."""
    return {
        name: rows.set_column(
            rows.schema.get_field_index(RUN_COLUMN), RUN_COLUMN, pa.nulls(len(rows), pa.string())
        )
        for name, rows in tables.items()
    }


def version_id(dataset: Dataset, as_of: datetime) -> str:
    """The id of the baseline that a dataset is on the clock ``as_of``: equal inputs, equal id.

    ``<name>-YYYYMMDD-HHMMSS-<six hex digits of its version and exact clock>``.
    """
    clock = as_of.astimezone(UTC)
    text = f"{dataset.key} {dataset.version} {clock.isoformat()}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    return f"{dataset.name}-{clock:%Y%m%d-%H%M%S}-{digest}"
