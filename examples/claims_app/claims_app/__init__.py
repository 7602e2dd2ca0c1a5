"""A claims desk: a small web application on the healthcare tables, to be tested with ATDM's data.

Belongs here: what a team's own application is. Does not belong here: anything of ATDM; it knows
neither test runs nor tokens.
"""
