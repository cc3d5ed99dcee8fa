"""Receipts in order: append, verify."""
