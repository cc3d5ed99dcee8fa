"""The default engine: one SQLite file beside its guards. The only package with SQL, besides the verifier."""
