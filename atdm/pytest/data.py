"""The data of a test: keys, records and token of its run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Records = dict[str, list[dict[str, Any]]]


class AtdmData(dict[str, Any]):
    """A leased test run in the shape of ``atdm -o json request``; the token hides in ``repr``.

    ``found["data"]["member_id"]`` and ``found.data["member_id"]`` are the same key. With
    ``isolation="database"`` there is ``found["database_url"]``.
    """

    def __init__(
        self, answer: Mapping[str, Any], records: Callable[[], Records] | None = None
    ) -> None:
        super().__init__(answer)
        self._records = records

    def __missing__(self, name: str) -> Any:
        if name == "records":
            return self.records
        raise KeyError(name)

    @property
    def records(self) -> Records:
        """The run's rows by table, read at the first access.

        Raises:
            AtdmError: REQUEST_INVALID where this connection may not read the tables.
        """
        if not super().__contains__("records"):
            if self._records is None:
                raise KeyError("records")
            self["records"] = self._records()
        found: Records = super().__getitem__("records")
        return found

    @property
    def test_run_id(self) -> str:
        return str(self["test_run_id"])

    @property
    def scenario_id(self) -> str:
        return str(self["scenario_id"])

    @property
    def seed(self) -> int | None:
        seed = self.get("seed")
        return None if seed is None else int(seed)

    @property
    def data(self) -> dict[str, Any]:
        """The keys that the scenario exposes, by name."""
        return dict(self["data"])

    @property
    def database_url(self) -> str | None:
        """The URL of the test's own database (it may hold a password), None without one."""
        url = self.get("database_url")
        return None if url is None else str.__str__(url)

    @property
    def token(self) -> str:
        """The cleanup token. Its ``repr`` hides it."""
        token: str = self["cleanup"]["cleanup_token"]
        return token
