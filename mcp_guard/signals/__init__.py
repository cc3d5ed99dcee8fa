"""Signals of risk from outside the call: what is unusual for the agent, and what the operator's own programs say."""
