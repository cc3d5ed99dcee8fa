"""Sign-in to upstreams over HTTP with OAuth 2.1: discovery, tokens and their storage. Loaded only where it is used."""
