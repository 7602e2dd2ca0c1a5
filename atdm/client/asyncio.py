"""The client for asyncio: the same methods, awaited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import copy
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from atdm.client.sync import AtdmClient, AtdmClientError
from atdm_engine.errors import AtdmError
from atdm_resources.catalog import leases_async
from atdm_resources.postgres.connection import connect_async
from atdm_resources.settings import Settings

if TYPE_CHECKING:
    import psycopg

    from atdm_services.requests.request import LeaseRequest

__all__ = ["AsyncAtdmClient"]

P = ParamSpec("P")
T = TypeVar("T")


def _as(
    method: Callable[Concatenate[AtdmClient, P], T],
) -> Callable[
    [Callable[..., Coroutine[Any, Any, T]]],
    Callable[Concatenate[AsyncAtdmClient, P], Coroutine[Any, Any, T]],
]:
    """Give a coroutine method signature, docstring and errors of a method of ``AtdmClient``."""

    def decorated(
        own: Callable[..., Coroutine[Any, Any, T]],
    ) -> Callable[Concatenate[AsyncAtdmClient, P], Coroutine[Any, Any, T]]:
        @wraps(method)
        async def call(self: AsyncAtdmClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return await own(self, *args, **kwargs)
            except AtdmClientError:
                raise
            except AtdmError as error:
                raise AtdmClientError.of(error) from error

        return call

    return decorated


def _in_thread(
    method: Callable[Concatenate[AtdmClient, P], T], *, alone: bool = False
) -> Callable[Concatenate[AsyncAtdmClient, P], Coroutine[Any, Any, T]]:
    """A method of ``AtdmClient`` that runs in a thread with a separate connection.

    ``alone``: one at a time, because it runs a Dagster graph in this process.
    """

    @wraps(method)
    async def call(self: AsyncAtdmClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._worked(lambda client: method(client, *args, **kwargs), alone=alone)

    return call


class AsyncAtdmClient:
    """``AtdmClient`` for asyncio: the same arguments, the same methods, awaited.

    Leases and resets use one asyncio connection, one at a time. Long work (making data, restoring a
    baseline, waiting for a Dagster run) runs in threads. A lease that is cancelled while it is made
    is reset. ``async with`` closes the connection.
    """

    def __init__(
        self,
        database_url: str | None = None,
        *,
        dagster_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        code_location: str | None = None,
        timeout: float = 30.0,
        run_timeout: float = 600.0,
        owner: str | None = None,
        owner_secret: str | None = None,
        source: str = "client",
        settings: Settings | None = None,
    ) -> None:
        self._blocking = AtdmClient(
            database_url,
            dagster_url=dagster_url,
            headers=headers,
            code_location=code_location,
            timeout=timeout,
            run_timeout=run_timeout,
            owner=owner,
            owner_secret=owner_secret,
            source=source,
            settings=settings,
        )
        self._caller = self._blocking._caller
        self._one_graph = asyncio.Lock()
        self._one_statement = asyncio.Lock()
        self._opened: psycopg.AsyncConnection[Any] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def settings(self) -> Settings:
        """The settings of environment and arguments: target, invoker."""
        return self._caller.settings

    async def close(self) -> None:
        """Close its connections; a later call opens new ones."""
        if self._opened is not None:
            await self._opened.close()
            self._opened = None
        self._blocking.close()

    @_as(AtdmClient.lease)
    async def lease(self, *args: Any, **options: Any) -> dict[str, Any]:
        return await self._kept(self._from_pool(self._caller.request(*args, **options)))

    @_as(AtdmClient.request_scenario)
    async def request_scenario(self, *args: Any, **options: Any) -> dict[str, Any]:
        from atdm_services.requests.request import MADE_WHEN

        request = self._caller.request(*args, **options)
        if request.may_come_from_a_pool:
            try:
                return await self._kept(self._from_pool(request))
            except AtdmError as error:
                if error.code not in MADE_WHEN:
                    raise
        return await self._worked(
            lambda client: client.request_scenario(*args, **options), alone=True
        )

    @_as(AtdmClient.reset_run)
    async def reset_run(self, test_run_id: str, cleanup_token: str) -> dict[str, Any]:
        async with self._one_statement:
            return await leases_async.reset_run(
                await self._connection(), test_run_id, cleanup_token, **self._caller.who
            )

    @_as(AtdmClient.reset_owner)
    async def reset_owner(self, owner: str, secret: str | None = None) -> dict[str, Any]:
        async with self._one_statement:
            return await leases_async.reset_owner(
                await self._connection(), owner, secret, **self._caller.who
            )

    submit = _in_thread(AtdmClient.submit)
    submission = _in_thread(AtdmClient.submission)
    claim = _in_thread(AtdmClient.claim)
    reset_all = _in_thread(AtdmClient.reset_all)
    baseline_snapshot = _in_thread(AtdmClient.baseline_snapshot, alone=True)
    baseline_restore = _in_thread(AtdmClient.baseline_restore, alone=True)
    baseline_list = _in_thread(AtdmClient.baseline_list)
    get_audit = _in_thread(AtdmClient.get_audit, alone=True)
    seal_audit = _in_thread(AtdmClient.seal_audit)
    get_scenarios = _in_thread(AtdmClient.get_scenarios)
    catalog = _in_thread(AtdmClient.catalog)
    replay = _in_thread(AtdmClient.replay, alone=True)
    record_outcomes = _in_thread(AtdmClient.record_outcomes)
    coverage = _in_thread(AtdmClient.coverage)

    async def _from_pool(self, request: LeaseRequest) -> dict[str, Any]:
        from atdm_services.requests.request import answer_to, pool_call

        names, options = pool_call(request)
        async with self._one_statement:
            connection = await self._connection()
            async with connection.transaction():
                leases = [
                    await leases_async.lease(connection, *names, **options)
                    for _ in range(request.runs)
                ]
        return answer_to(request, leases)

    async def _kept(self, leasing: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        """Await a lease; reset it if the waiting task is cancelled meanwhile."""
        task = asyncio.ensure_future(leasing)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # The caller will not get the token. A lease takes milliseconds.
            for run in _runs(await task):
                await self.reset_run(run["test_run_id"], run["cleanup"]["cleanup_token"])
            raise

    async def _worked(self, work: Callable[[AtdmClient], T], *, alone: bool) -> T:
        abandoned = threading.Event()

        def do() -> T:
            with self._another() as client:
                answer = work(client)
                if abandoned.is_set():
                    for run in _runs(answer):
                        client.reset_run(run["test_run_id"], run["cleanup"]["cleanup_token"])
                return answer

        async with self._one_graph if alone else nullcontext():
            try:
                return await asyncio.to_thread(do)
            except asyncio.CancelledError:
                # The thread runs to its end and resets what it has leased by then.
                abandoned.set()
                raise

    @contextmanager
    def _another(self) -> Iterator[AtdmClient]:
        """The blocking client with a separate connection."""
        client = copy(self._blocking)
        client._opened = None
        try:
            yield client
        finally:
            if client._opened is not None:
                client._opened.close()

    async def _connection(self) -> psycopg.AsyncConnection[Any]:
        if self._opened is None or self._opened.closed:
            url = await asyncio.to_thread(self._caller.target_url)
            self._opened = await connect_async(url)
        return self._opened


def _runs(answer: object) -> list[Mapping[str, Any]]:
    """The leased runs in an answer."""
    if not isinstance(answer, Mapping):
        return []
    return [run for run in answer.get("runs", [answer]) if _is_leased(run)]


def _is_leased(run: object) -> bool:
    return isinstance(run, Mapping) and run.get("cleanup") is not None
