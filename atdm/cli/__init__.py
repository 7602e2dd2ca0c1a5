"""The command line ``atdm``: one module a noun, loaded when one of its commands runs."""

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
    # A tenth of the time that imports take goes into looking for garbage, and they make none.
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
    """End the process without taking its memory apart.

    Freeing object by object what Dagster and pandas have built takes a second, a third of a
    request. What others have registered to run at exit does run.
    """
    if threading.active_count() > 1:
        # Whoever started a thread may rely on its being waited for.
        raise SystemExit(status)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        # Nobody reads any more; there is nothing to say and nobody to say it to.
        os._exit(status or 1)
    os._exit(status)
