"""The command line: ``atdm``.

Belongs here: the entry point. Does not belong here: the commands (``app`` says what they accept,
one module each says what they do and is imported when its command runs).
"""

from __future__ import annotations

import gc

__all__ = ["main"]


def main() -> None:
    """Run ``atdm``: exit status 0 done, 1 an error with a code, 2 usage, 130 interrupted."""
    # A tenth of the time that imports take goes into looking for garbage, and they make none.
    gc.disable()
    try:
        from atdm.cli.app import app

        app(prog_name="atdm")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
