"""Risk signals from outside the call: anomalies in an agent's behaviour, and the operator's own programs."""
