"""Pages for people: audit, coverage, and the server that delivers them."""
