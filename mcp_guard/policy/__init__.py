"""Cedar policies: schema, request, engine, cases."""
