"""What processes of these tests have loaded before they are forked.

Belongs here: imports, and nothing that opens a connection or starts a thread.
"""

from __future__ import annotations

import dagster_postgres  # noqa: F401

import atdm_assets.definitions
import atdm_engine.checks.validator  # noqa: F401
import atdm_services.requests.files  # noqa: F401
import tests.torture.operations  # noqa: F401
