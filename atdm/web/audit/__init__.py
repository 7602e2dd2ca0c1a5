"""The audit page: the whole story of a request or a test run as one self-contained HTML file.

Belongs here: ``facts`` reads what is known, ``view`` decides what is said of it and how much,
``page`` writes the HTML; the template and the style lie beside them. Does not belong here: the
trail as JSON and in a terminal (``atdm_services.audit.report``). Importing this package loads nothing.
"""

from __future__ import annotations
