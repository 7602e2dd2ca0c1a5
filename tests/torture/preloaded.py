"""What processes of these tests have loaded before they are forked."""

from __future__ import annotations

import dagster_postgres  # noqa: F401

import atdm_assets.definitions  # noqa: F401
import atdm_engine.checks.validator  # noqa: F401
import atdm_services.requests.generation  # noqa: F401
import tests.torture.operations  # noqa: F401
