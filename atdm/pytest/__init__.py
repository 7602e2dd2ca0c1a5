"""What stands behind the pytest plugin ``atdm.pytest``.

Belongs here: modules that the plugin's hooks and fixtures call. Does not belong here: hooks and
fixtures themselves, and anything that programs other than pytest use (``atdm.client.sync``).
"""
