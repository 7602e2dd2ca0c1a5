"""Scalars and Arrow columns as canonical JSON texts."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atdm_engine.arrow.types import canonical_json
from atdm_engine.values.scalars import TypedScalar

_HUNDREDTHS = [f"{number:02}".rstrip("0") or "0" for number in range(100)]
_CONTROLS = {chr(code): canonical_json(chr(code))[1:-1] for code in range(0x20)}


def json_text(value: TypedScalar) -> str:
    """A scalar as JSON: dates and timestamps are ISO texts, decimals are numbers."""
    if isinstance(value, date):
        return canonical_json(value.isoformat())
    return canonical_json(float(value) if isinstance(value, Decimal) else value)


def json_texts(values: pa.Array) -> pa.StringArray:
    """Each value as JSON; NULL becomes ``null``. Decimals must have two places."""
    kind = values.type
    if pa.types.is_boolean(kind):
        texts = pc.if_else(values, "true", "false")
    elif pa.types.is_integer(kind):
        texts = values.cast(pa.string())
    elif pa.types.is_decimal(kind):
        texts = _decimals(values)
    elif pa.types.is_date32(kind) or pa.types.is_timestamp(kind):
        form = "%Y-%m-%d" if pa.types.is_date32(kind) else "%Y-%m-%dT%H:%M:%SZ"
        texts = pc.binary_join_element_wise('"', pc.strftime(values, format=form), '"', "")
    else:
        escaped = pc.replace_substring(pc.replace_substring(values, "\\", "\\\\"), '"', '\\"')
        for control, escape in _CONTROLS.items():
            if pc.any(pc.match_substring(escaped, control)).as_py():
                escaped = pc.replace_substring(escaped, control, escape)
        texts = pc.binary_join_element_wise('"', escaped, '"', "")
    return texts.fill_null("null")


def _decimals(values: pa.Array) -> pa.StringArray:
    """As Python writes the float: 1.5 and 2.0, not 1.50 and 2.00."""
    units = np.frombuffer(values.buffers()[1], np.int64)[0::2][values.offset :][: len(values)]
    whole, rest = np.divmod(np.abs(units), 100)
    sign = pa.array(["", "-"]).take(pa.array((units < 0).astype(np.int8)))
    fraction = pa.array(_HUNDREDTHS).take(pa.array(rest))
    texts = pc.binary_join_element_wise(sign, pa.array(whole).cast(pa.string()), ".", fraction, "")
    return pc.if_else(values.is_valid(), texts, pa.scalar(None, pa.string()))
