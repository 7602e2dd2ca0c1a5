"""Arrow tables and columns: types, text columns, hashes of texts, DuckDB over them."""
