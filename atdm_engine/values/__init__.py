"""Values as files and callers write them: scalars, times, and the fields of the models that hold
them. Belongs here: what the specifications and the generators both need. No tables, no rows.
"""
