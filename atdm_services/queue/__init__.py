"""The queue: submissions, files of the inbox, leases of what was made."""
