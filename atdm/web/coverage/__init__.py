"""The coverage page: requirements, scenarios and tests, as one self-contained HTML file.

What is covered is decided in ``atdm_services.coverage``.
"""
