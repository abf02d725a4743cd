"""A variant and a preset make a run. No Polars and no DuckDB in here."""
