"""The coverage page: requirements, scenarios and tests as one self-contained HTML file.

Belongs here: ``page`` writes the HTML; the template and the style lie beside it. Does not belong
here: what is covered (``atdm_services.coverage.matrix``). Importing this package loads nothing.
"""
