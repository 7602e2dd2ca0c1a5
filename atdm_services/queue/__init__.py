"""Submissions: put into the queue, read from the inbox, leased when they are made."""
