"""The default engine: one SQLite file beside its guards."""
