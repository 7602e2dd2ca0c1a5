"""The command line ``atdm``: one module a noun, loaded when one of its commands runs.

A module holds the options of its commands, calls a service and renders the answer as text; ``app``
names the module of every command. What another face needs as well belongs to ``atdm_services``.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run ``atdm`` and end the process.

    Exit status 0 done, 1 an error with a code, 2 usage, 130 interrupted.
    """
    # The search for garbage is a tenth of the time of imports, which leave none.
    gc.disable()
    try:
        from atdm.cli.app import app

        app(prog_name="atdm")
        status: object = 0
    except SystemExit as ending:
        status = ending.code
    except KeyboardInterrupt:
        status = 130
    _leave(status if isinstance(status, int) else int(status is not None))


def _leave(status: int) -> NoReturn:
    """End the process without freeing its objects; functions registered to run at exit do run.

    Freeing the objects of Dagster and pandas one by one takes a second, a third of a request.
    """
    if threading.active_count() > 1:
        # The interpreter waits for threads when it ends.
        raise SystemExit(status)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        # The reader has closed the pipe.
        os._exit(status or 1)
    os._exit(status)
