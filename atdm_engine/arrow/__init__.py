"""Arrow tables and columns: types, text columns, JSON texts, DuckDB over them."""
