"""Clients in front of the guard: sessions, protocol adapters and transports."""
