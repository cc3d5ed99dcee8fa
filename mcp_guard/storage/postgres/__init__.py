"""The engine for several gateways: PostgreSQL, one schema for each origin."""
