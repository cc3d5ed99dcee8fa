"""Signing in to upstreams over HTTP with OAuth 2.1: whom to ask, for what, and what is kept. Loaded where used."""
