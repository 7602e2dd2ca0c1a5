"""The sensor that seals, counts and exports audit events."""
