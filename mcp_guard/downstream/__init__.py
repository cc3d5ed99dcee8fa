"""Fronts: how a client reaches the guard."""
