"""PostgreSQL itself: connections, errors, locks, introspection, DDL, COPY."""
