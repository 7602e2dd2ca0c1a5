"""Generating the data of a request: rows in batches, checked and staged as Parquet files.

Loads pandas and pandera.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa

from atdm_engine.checks.profile import ColumnProfile
from atdm_engine.checks.results import verdict
from atdm_engine.checks.validator import Validator
from atdm_engine.generation.batches import batches, exposed_data, runs_per_batch
from atdm_engine.generation.request import RequestSpec
from atdm_engine.hashing.content import ContentHash, combined
from atdm_engine.progress import Progress
from atdm_engine.random.run_ids import run_id_array
from atdm_engine.values.scalars import json_value
from atdm_resources.store.files import Store
from atdm_resources.store.parquet import ParquetWriter, parquet_writer, write_table
from atdm_resources.telemetry import tracing
from atdm_services.requests.load import EXPOSED_COLUMNS
from atdm_services.requests.results import Checked, StagedTable

SAMPLE_ROWS: Final = 5
EXPOSED_FILE: Final = "_exposed.parquet"
"""No table's name begins with an underscore."""


def generate_and_check(
    spec: RequestSpec, store: Store, folder: str, progress: Progress | None = None
) -> Checked:
    """Generate the rows of a request, check them, and stage them below ``folder``.

    The files appear only if the data is accepted. Otherwise the rejected rows alone are written, to
    ``quarantine/<domain>/<scenario>/<request>``. ``progress`` counts test runs.

    Raises:
        AtdmError: STORE_FAILED; SPEC_INVALID, a column cannot be generated.
    """
    began = time.perf_counter()
    validator = Validator(spec.domain, spec.scenario, spec.effective)
    files = RequestFiles(store, folder, spec)
    spans = tracing.Batches()
    runs = runs_per_batch(spec)
    tables: dict[str, StagedTable] = {}
    try:
        with files:
            made = spans.around("atdm.generate", batches(spec, runs))
            for number, batch in enumerate(made, start=1):
                with spans.of("atdm.check"):
                    validator.check(batch)
                with spans.of("atdm.stage"):
                    files.write(batch)
                if progress is not None:
                    progress("made and checked", min(number * runs, spec.runs), spec.runs)
            outcomes = validator.outcomes()
            judgement = verdict(spec.scenario, outcomes)
            if not judgement.accepted:
                # An exception is what keeps the files from appearing.
                raise _NotAcceptedError
        tables = files.results()
    except _NotAcceptedError:
        pass
    return Checked(
        spec=spec,
        outcomes=outcomes,
        verdict=judgement,
        tables=tables,
        content_hash=files.content_hash(),
        quarantine=None if judgement.accepted else _quarantine(spec, store, validator),
        exposed=files.exposed if judgement.accepted else None,
        seconds=time.perf_counter() - began,
    )


class _NotAcceptedError(Exception):
    """Ends the writing of files that must not appear."""


def _quarantine(spec: RequestSpec, store: Store, validator: Validator) -> str | None:
    """Write the rejected rows; the folder's address, None when no row is to blame."""
    rejected = validator.rejected()
    folder = f"quarantine/{spec.scenario.key}/{spec.request_id}"
    for table, rows in rejected.items():
        write_table(store, f"{folder}/{table}.parquet", rows)
    return store.uri(folder) if rejected else None


@dataclass
class _TableFile:
    writer: ParquetWriter
    content_hash: ContentHash
    profile: ColumnProfile
    sample: list[dict[str, Any]] = field(default_factory=list)


class RequestFiles:
    """Writes the tables of a request below ``folder``; a context manager.

    The files appear when the block ends without an exception; otherwise nothing does.
    """

    def __init__(self, store: Store, folder: str, spec: RequestSpec) -> None:
        self._store = store
        self._folder = folder
        self._spec = spec
        self._opened_files = ExitStack()
        self._tables: dict[str, _TableFile] = {}
        moving = any(exposure.row is None for exposure in spec.scenario.exposes)
        self.exposed = f"{folder}/{EXPOSED_FILE}" if moving else None
        self._exposed_writer: ParquetWriter | None = None

    def __enter__(self) -> Self:
        self._opened_files.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._opened_files.__exit__(kind, error, traceback)

    def write(self, batch: Mapping[str, pa.Table]) -> None:
        """Append a batch: the rows of whole test runs, by table.

        Raises:
            AtdmError: STORE_FAILED.
        """
        for table, rows in batch.items():
            file = self._tables.get(table) or self._open(table, rows)
            file.content_hash.add(rows)
            file.profile.add(rows)
            file.writer.write(rows)
        if self.exposed is not None:
            self._write_exposed(batch)

    def _open(self, table: str, rows: pa.Table) -> _TableFile:
        spec = self._spec
        path = f"{self._folder}/{table}.parquet"
        writer = self._opened_files.enter_context(parquet_writer(self._store, path, rows.schema))
        file = _TableFile(
            writer,
            ContentHash(spec.domain, table, spec.request_id, spec.number_base),
            ColumnProfile(spec.domain.tables[table]),
            [json_value(row) for row in rows.slice(0, SAMPLE_ROWS).to_pylist()],
        )
        self._tables[table] = file
        return file

    def _write_exposed(self, batch: Mapping[str, pa.Table]) -> None:
        numbers, values = exposed_data(self._spec, batch)
        ids = run_id_array(self._spec.request_id, np.asarray(numbers, dtype=np.int64))
        data = pa.array([json.dumps(json_value(value)) for value in values], pa.string())
        rows = pa.table([ids, data], names=list(EXPOSED_COLUMNS))
        if self._exposed_writer is None:
            assert self.exposed is not None
            self._exposed_writer = self._opened_files.enter_context(
                parquet_writer(self._store, self.exposed, rows.schema)
            )
        self._exposed_writer.write(rows)

    def content_hash(self) -> str:
        """The hash of everything written, the same for equal data of another request."""
        return combined(
            {name: file.content_hash.hexdigest() for name, file in self._tables.items()}
        )

    def results(self) -> dict[str, StagedTable]:
        """What was written, by table; complete once the block has ended."""
        return {
            table: StagedTable(
                path=file.writer.path,
                rows=file.writer.rows,
                bytes=file.writer.bytes,
                content_hash=file.content_hash.hexdigest(),
                uri=self._store.uri(file.writer.path),
                profile=file.profile.result(),
                sample=file.sample,
            )
            for table, file in self._tables.items()
        }
