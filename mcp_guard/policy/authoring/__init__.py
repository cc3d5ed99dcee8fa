"""Tools for policy authors: lint, cases, coverage, replay, suggest, explain and export."""
