"""What the commands are called and what they accept.

Its module is imported when it runs, because ``atdm request`` on a ready run and ``atdm --help``
must not pay for Dagster or pandas.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Concatenate, ParamSpec, TypeAlias, cast

import typer

from atdm.cli import completion
from atdm.cli.output import Mode, Output
from atdm_engine.errors import AtdmError

P = ParamSpec("P")
Command: TypeAlias = Callable[Concatenate[typer.Context, P], int | None]

app = typer.Typer(
    name="atdm",
    help="Test data by intent: valid, isolated, reproducible, and gone again afterwards.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
catalog = typer.Typer(
    help="What the target knows: scenarios, requests and runs.", no_args_is_help=True
)
app.add_typer(catalog, name="catalog")

Constraints = Annotated[
    list[str] | None,
    typer.Option(
        "-c",
        "--constraint",
        metavar="KEY=VALUE",
        help="A constraint of the scenario; may be given several times.",
    ),
]


def command(group: typer.Typer, name: str) -> Callable[[Command[P]], Command[P]]:
    """Register a command whose errors are printed and whose result is its exit status."""

    def register(body: Command[P]) -> Command[P]:
        @functools.wraps(body)
        def run(context: typer.Context, *args: P.args, **kwargs: P.kwargs) -> int | None:
            output: Output = context.obj
            started = time.perf_counter()
            failure: Exception | None = None
            try:
                status = body(context, *args, **kwargs)
            except AtdmError as error:
                failure, status = error, output.fail(error)
            except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
                raise
            except Exception as error:
                failure, status = error, output.fail_unexpected(error)
            if output.worked:
                from atdm.cli import log

                log.record(output, name, time.perf_counter() - started, failure)
            raise typer.Exit(status or 0)

        group.command(name)(run)
        return cast(Command[P], run)

    return register


@app.callback()
def options(
    context: typer.Context,
    output: Annotated[
        Mode,
        typer.Option("--output", "-o", envvar="ATDM_CLI_OUTPUT", help="How results are printed."),
    ] = Mode.HUMAN,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="ATDM_DEBUG", help="Print tracebacks of errors.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
) -> None:
    """Test data by intent: valid, isolated, reproducible, and gone again afterwards."""
    context.obj = Output(mode=output, debug=debug, quiet=quiet)


@command(app, "init")
def init(
    context: typer.Context,
    disposable: Annotated[
        str | None,
        typer.Option(metavar="DBNAME", help="Mark this database, which has tables, as disposable."),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Drop and make the domain tables that have drifted.")
    ] = False,
) -> int | None:
    """Make the catalog and the tables in the target, and publish the scenarios. Repeatable.

    Example: atdm init --disposable app_test
    """
    from atdm.cli import target

    return target.init(context.obj, disposable=disposable, rebuild=rebuild)


@command(app, "up")
def up(
    context: typer.Context,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Of the web page; default 3000 or a free one."),
    ] = None,
) -> int | None:
    """Start PostgreSQL, the Dagster web page and the daemon, on this machine alone.

    Example: atdm up --port 3000
    """
    from atdm.cli import services

    return services.up(context.obj, port=port)


@command(app, "down")
def down(context: typer.Context) -> int | None:
    """Stop what `atdm up` started, and the embedded PostgreSQL.

    Example: atdm down
    """
    from atdm.cli import services

    return services.down(context.obj)


@command(app, "status")
def status(context: typer.Context) -> int | None:
    """Say what runs, what is ready, and what is wrong (then exit status 1).

    Example: atdm -o json status
    """
    from atdm.cli import services

    return services.status(context.obj)


@command(app, "env")
def env(context: typer.Context) -> int | None:
    """Print the exports that plain `dagster` and `dg` commands need: eval "$(atdm env)".

    Example: eval "$(atdm env)"
    """
    from atdm.cli import target

    return target.env(context.obj)


@command(app, "schema")
def schema(
    context: typer.Context,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="scenario|domain|table|dataset", autocompletion=completion.schema_kinds
        ),
    ],
) -> int | None:
    """Print the JSON Schema of a kind of specification file.

    Example: atdm schema scenario > scenario.schema.json
    """
    from atdm.cli import scenarios

    return scenarios.schema(context.obj, kind)


@command(app, "scenarios")
def scenarios(
    context: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORDS", help="What you need.")
    ] = None,
    constraint: Constraints = None,
) -> int | None:
    """Find a scenario by what you need: the best match first, with the reason.

    Example: atdm scenarios denied claim -c provider_network=out_of_network
    """
    from atdm.cli import scenarios

    return scenarios.scenarios(context.obj, words or [], constraint or [])


@command(app, "request")
def request(
    context: typer.Context,
    scenario: Annotated[
        str,
        typer.Argument(help="Name, or domain/name.", autocompletion=completion.scenario_names),
    ],
    constraint: Constraints = None,
    runs: Annotated[int, typer.Option(min=1, help="How many test runs.")] = 1,
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same data; default: its own.")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(help="The clock of the data, ISO 8601; default: now.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--id", help="A name for the request; asking again returns it.")
    ] = None,
    playwright: Annotated[
        bool, typer.Option("--playwright", help="Write a JSON fixture file.")
    ] = False,
    pytest: Annotated[bool, typer.Option("--pytest", help="Write a Python fixture file.")] = False,
    no_lease: Annotated[
        bool, typer.Option("--no-lease", help="Make the runs and leave them ready for others.")
    ] = False,
    ttl: Annotated[
        str | None,
        typer.Option(help="How long the lease holds: 30m, 4h, 1d; default: the scenario's."),
    ] = None,
    owner: Annotated[
        str | None, typer.Option(envvar="ATDM_OWNER", help="Who holds it; default: the invoker.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for the audit trail.")] = None,
    enqueue: Annotated[
        bool, typer.Option("--enqueue", help="Have the daemon make it; lease it by its key.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="With --enqueue: wait for it and lease it.")
    ] = False,
    key: Annotated[
        str | None,
        typer.Option(help="With --enqueue: the idempotency key; the same key is one submission."),
    ] = None,
    priority: Annotated[
        int, typer.Option(min=-999, max=999, help="With --enqueue: greater is sooner.")
    ] = 0,
    cleanup: Annotated[
        str | None,
        typer.Option(metavar="after_test|after_suite|leave", help="With --enqueue: who resets it."),
    ] = None,
    timeout: Annotated[str, typer.Option(help="How long --wait waits: 90s, 10m.")] = "10m",
) -> int | None:
    """Lease a ready test run, or make one when none is ready. Prints the cleanup token once.

    Example: atdm request claim_denial_active_member -c claim_status=denied --ttl 30m
    """
    from atdm.cli import leases

    return leases.request(
        context.obj,
        scenario,
        constraints=constraint or [],
        runs=runs,
        seed=seed,
        as_of=as_of,
        label=label,
        playwright=playwright,
        pytest=pytest,
        no_lease=no_lease,
        ttl=ttl,
        owner=owner,
        reason=reason,
        enqueue=enqueue,
        wait=wait,
        key=key,
        priority=priority,
        cleanup=cleanup,
        timeout=timeout,
    )


@command(app, "reset")
def reset(
    context: typer.Context,
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="The id of the test run.")
    ] = None,
    token: Annotated[str | None, typer.Option("--token", "-t", help="Its cleanup token.")] = None,
    owner: Annotated[
        str | None, typer.Option(help="Give back all runs that this owner holds.")
    ] = None,
) -> int | None:
    """Delete a run's rows, by its token; or everything that an owner holds.

    Example: atdm reset 01K7ZQ3V5MWXR8ABCDEF000001 --token atdm_TOKEN
    """
    from atdm.cli import leases

    return leases.reset(context.obj, run, token=token, owner=owner)


@command(app, "reset-all")
def reset_all(
    context: typer.Context,
    confirm: Annotated[bool, typer.Option("--confirm", help="Yes, all of them.")] = False,
    revoke_leases: Annotated[
        bool, typer.Option("--revoke-leases", help="Also the runs that somebody holds.")
    ] = False,
) -> int | None:
    """Delete the rows of every test run.

    Example: atdm reset-all --confirm
    """
    from atdm.cli import leases

    return leases.reset_all(context.obj, confirm=confirm, revoke_leases=revoke_leases)


@command(app, "dataset-build")
def dataset_build(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(metavar="DOMAIN/NAME", help="Which dataset.")],
    as_of: Annotated[
        str | None, typer.Option(help="The clock of the data, ISO 8601; default: now.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=512, help="How many; default: one for each core.")
    ] = None,
) -> int | None:
    """Make the next version of a dataset, or go on with one whose build was killed.

    Example: atdm dataset-build healthcare/smoke
    """
    from atdm.cli import datasets

    return datasets.build(context.obj, dataset, as_of=as_of, processes=processes)


@command(app, "vocabulary")
def vocabulary(
    context: typer.Context,
    provider: Annotated[str, typer.Argument(help="A word provider: first_name, city, ...")],
    locale: Annotated[str, typer.Option(help="Language and country.")] = "en_US",
    count: Annotated[int, typer.Option(min=1, max=100_000, help="How many words in all.")] = 500,
    folder: Annotated[
        Path | None, typer.Option(help="Where LOCALE/PROVIDER.txt goes; default: the shipped ones.")
    ] = None,
) -> int | None:
    """Draw a word pool once and keep it as a file (maintenance).

    Example: atdm vocabulary first_name --locale de_DE --count 300
    """
    from atdm.cli import scenarios

    return scenarios.vocabulary(context.obj, provider, locale, count=count, folder=folder)


@command(app, "demo")
def demo(context: typer.Context) -> int | None:
    """Show all of it on a real PostgreSQL: make, check, load, lease, test, reset, audit.

    Example: atdm demo
    """
    from atdm.cli import demo as demonstration

    return demonstration.run(context.obj)


# Last, because they register themselves with what is defined above.
from atdm.cli import baseline_commands as _baseline_commands  # noqa: E402, F401
from atdm.cli import lifecycle_commands as _lifecycle_commands  # noqa: E402, F401
from atdm.cli import metrics_commands as _metrics_commands  # noqa: E402, F401
from atdm.cli import replay_commands as _replay_commands  # noqa: E402, F401
from atdm.cli import trail_commands as _trail_commands  # noqa: E402, F401
