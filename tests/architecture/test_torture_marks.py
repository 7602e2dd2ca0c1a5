"""The kill script names functions as texts: each must exist, or its phase is never reached."""

from __future__ import annotations

import importlib
import re
from functools import reduce

import pytest

from tests.support.source import ROOT

NAMED = re.compile(r'call="([\w.]+):([\w.]+)')
CALLS = sorted(set(NAMED.findall((ROOT / "tests/torture/operations.py").read_text("utf-8"))))


def test_there_are_marks() -> None:
    assert len(CALLS) > 10


@pytest.mark.parametrize(("module", "name"), CALLS)
def test_a_mark_names_a_function(module: str, name: str) -> None:
    assert callable(reduce(getattr, name.split("."), importlib.import_module(module)))
