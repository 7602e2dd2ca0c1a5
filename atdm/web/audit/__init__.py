"""The audit page of a request or a test run, as one self-contained HTML file.

``facts`` reads what is known, ``view`` decides what is shown, ``page`` writes the HTML. The same
trail as JSON and as terminal text is ``atdm_services.audit.report``.
"""
