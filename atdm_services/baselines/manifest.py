"""The manifest of a baseline: its tables, its runs, and where their files are.

Layout, below the store's URL::

    baselines/<domain>/<baseline id>/<table>/part-00000.parquet   one or more parts a table
    baselines/<domain>/<baseline id>/runs.parquet                 test runs whose rows are in it,
    baselines/<domain>/<baseline id>/requests.parquet             and their requests
    baselines/<domain>/<baseline id>/manifest.json                written last: now it exists

A baseline exists when its manifest does. The files are written first, then
``publish_manifest`` is called; files without a manifest were left by a process that died.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote

from pydantic import Field, ValidationError

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.hashing.content import combined
from atdm_resources.catalog.baselines import BaselineRow
from atdm_resources.postgres.columns import Definition, FrozenModel, SequenceState, TableColumn
from atdm_resources.store.files import Store

FORMAT_VERSION = 2
"""The version that is written. Version 1 has captured dates and instants as texts."""
READ_VERSIONS = (1, 2)

ROOT = "baselines"
MANIFEST = "manifest.json"
RUNS = "runs"
REQUESTS = "requests"

Kind = Literal["captured", "generated"]

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")


class PartFile(FrozenModel):
    """One Parquet file. ``path`` is relative to the baseline's folder."""

    path: str
    rows: int
    bytes: int
    sha256: str


class BaselineTable(FrozenModel):
    """One table: its columns in order, its rows and the files that hold them.

    ``key`` are the columns of the primary key. ``content_hash`` is ``atdm_engine.hashing.content``
    over every column in a file, keys included.
    """

    name: str
    columns: tuple[TableColumn, ...]
    key: tuple[str, ...] = ()
    rows: int
    content_hash: str
    files: tuple[PartFile, ...] = ()
    partition_of: str | None = None

    @property
    def stored_columns(self) -> tuple[TableColumn, ...]:
        """The columns that are in the files, in order."""
        return tuple(column for column in self.columns if not column.generated)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


class ContainedRuns(FrozenModel):
    """The test runs whose rows are in the baseline, counted by the status they had.

    ``file`` has columns test_run_id, status, pool_key, as_of and data; ``requests`` has their
    requests, and ``scenarios`` what these were made by, as rows of the catalog in JSON: so another
    target can take them.
    """

    counts: dict[str, int] = Field(default_factory=dict)
    file: PartFile | None = None
    requests: PartFile | None = None
    scenarios: tuple[dict[str, Any], ...] = ()

    @property
    def files(self) -> tuple[PartFile, ...]:
        return tuple(file for file in (self.file, self.requests) if file is not None)


class Manifest(FrozenModel):
    """Everything about a baseline, as ``manifest.json`` holds it.

    ``tables`` are in foreign-key order as far as there is one. ``next_number`` is the first number
    for unique columns that no row of it uses. ``dataset``: the inputs of a generated baseline.
    """

    format_version: int = FORMAT_VERSION
    baseline_id: str
    domain: str
    kind: Kind
    captured_at: datetime
    captured_by: str
    source: str
    reason: str = ""
    engine_version: str
    postgres_version: str
    database: str = ""
    tables: tuple[BaselineTable, ...]
    definitions: tuple[Definition, ...] = ()
    sequences: tuple[SequenceState, ...] = ()
    runs: ContainedRuns = ContainedRuns()
    next_number: int = 0
    dataset: dict[str, Any] | None = None
    content_hash: str

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def files(self) -> tuple[PartFile, ...]:
        """Every file of the baseline but the manifest."""
        return tuple(file for table in self.tables for file in table.files) + self.runs.files

    def summary(self) -> dict[str, Any]:
        """The manifest in a few lines, for events and listings."""
        return {
            "baseline_id": self.baseline_id,
            "domain": self.domain,
            "kind": self.kind,
            "captured_at": self.captured_at.isoformat(),
            "captured_by": self.captured_by,
            "reason": self.reason,
            "format_version": self.format_version,
            "engine_version": self.engine_version,
            "postgres_version": self.postgres_version,
            "tables": {table.name: table.rows for table in self.tables},
            "rows": self.rows,
            "bytes": self.bytes,
            "runs": dict(self.runs.counts),
            "content_hash": self.content_hash,
        }

    def catalog_row(self, store_url: str) -> BaselineRow:
        """What the catalog keeps of the baseline."""
        return BaselineRow(
            domain=self.domain,
            baseline_id=self.baseline_id,
            kind=self.kind,
            store_url=store_url,
            invoker=self.captured_by,
            source=self.source,
            reason=self.reason,
            rows=self.rows,
            bytes=self.bytes,
            content_hash=self.content_hash,
        )


@dataclass(frozen=True, slots=True)
class BaselineFiles:
    """Where the files of one baseline are, as paths of the store."""

    domain: str
    baseline_id: str

    @property
    def folder(self) -> str:
        return f"{domain_folder(self.domain)}/{check_id(self.baseline_id)}"

    @property
    def manifest(self) -> str:
        return f"{self.folder}/{MANIFEST}"

    def catalog(self, part: str, attempt: str = "") -> str:
        """The file of RUNS or REQUESTS. No table's folder is called so: they have no dot."""
        return f"{self.folder}/{part}{'-' if attempt else ''}{attempt}.parquet"

    def part(self, table: str, number: int = 0, attempt: str = "") -> str:
        """A part of a table's rows; ``attempt`` tells processes apart that write one baseline."""
        name = f"part-{number:05d}{'-' if attempt else ''}{attempt}.parquet"
        return f"{self.folder}/{_file_name(table)}/{name}"

    def relative(self, path: str) -> str:
        """A path of the store as the manifest has it."""
        return path.removeprefix(f"{self.folder}/")

    def full(self, file: PartFile) -> str:
        """The path in the store of a file that the manifest names."""
        return f"{self.folder}/{file.path}"


def domain_folder(domain: str) -> str:
    """The folder that holds the baselines of a domain."""
    return f"{ROOT}/{_file_name(domain)}"


def check_id(baseline_id: str) -> str:
    """``baseline_id`` if it may name a baseline. Raises AtdmError REQUEST_INVALID."""
    if not _ID.match(baseline_id) or ".." in baseline_id:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"{baseline_id!r} cannot name a baseline; allowed: a letter or digit, then up to 62 of "
            "a-z 0-9 . _ - (no two dots in a row)",
            {"baseline_id": baseline_id[:200], "allowed": "[a-z0-9][a-z0-9._-]{0,62}"},
        )
    return baseline_id


def new_id(now: datetime | None = None) -> str:
    """A fresh id: ``bl-YYYYMMDD-HHMMSS-xxxxxx``, in UTC."""
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    return f"bl-{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def content_hash_of(tables: Iterable[BaselineTable]) -> str:
    """The hash of a whole baseline, from those of its tables."""
    return combined({table.name: table.content_hash for table in tables})


def publish_manifest(store: Store, manifest: Manifest) -> str:
    """Write the manifest: from now on the baseline exists. Returns the manifest's path.

    Raises:
        AtdmError: BASELINE_EXISTS when the id is taken, also by a process that was a moment
            faster; STORE_FAILED.
    """
    files = BaselineFiles(manifest.domain, manifest.baseline_id)
    body = manifest.model_dump(mode="json")
    document = {**body, "manifest_sha256": _checksum(body)}
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if not store.write_new(files.manifest, text.encode("utf-8")):
        raise exists(manifest.domain, manifest.baseline_id)
    return files.manifest


def read_manifest(store: Store, domain: str, baseline_id: str) -> Manifest:
    """The manifest of a baseline.

    Raises:
        AtdmError: BASELINE_NOT_FOUND; BASELINE_INVALID when it is damaged, written by a newer
            version of ATDM, or not the one of this folder; STORE_FAILED.
    """
    files = BaselineFiles(domain, baseline_id)
    if not store.exists(files.manifest):
        raise AtdmError(
            ErrorCode.BASELINE_NOT_FOUND,
            f"there is no baseline {baseline_id!r} of domain {domain}",
            {"domain": domain, "baseline_id": baseline_id, "path": store.uri(files.manifest)},
        )
    return _parsed(store.read_bytes(files.manifest), files, store.uri(files.manifest))


def exists(domain: str, baseline_id: str) -> AtdmError:
    """BASELINE_EXISTS, for an id that is taken."""
    return AtdmError(
        ErrorCode.BASELINE_EXISTS,
        f"baseline {baseline_id!r} of domain {domain} exists already; baselines never change",
        {"domain": domain, "baseline_id": baseline_id},
    )


def _parsed(content: bytes, files: BaselineFiles, uri: str) -> Manifest:
    def invalid(reason: str) -> AtdmError:
        return AtdmError(
            ErrorCode.BASELINE_INVALID,
            f"{uri}: {reason}",
            {"baseline_id": files.baseline_id, "path": uri, "reason": reason},
        )

    try:
        document = json.loads(content.decode("utf-8"))
    except ValueError as error:
        raise invalid(f"the manifest is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise invalid("the manifest is no JSON object")
    version = document.get("format_version")
    if version not in READ_VERSIONS:
        readable = " and ".join(str(known) for known in READ_VERSIONS)
        raise invalid(f"format version {version!r}; this ATDM reads {readable}")
    checksum = document.pop("manifest_sha256", None)
    if checksum != _checksum(document):
        raise invalid("the manifest is damaged: its checksum does not match")
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise invalid(f"the manifest is damaged: {where}: {first['msg']}") from error
    if (manifest.domain, manifest.baseline_id) != (files.domain, files.baseline_id):
        raise invalid(
            f"this is the manifest of baseline {manifest.baseline_id} of {manifest.domain}"
        )
    return manifest


def _checksum(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _file_name(name: str) -> str:
    """Any table's name as one part of a path, without a dot: ATDM's own files have one."""
    return quote(name, safe="").replace(".", "%2E")
