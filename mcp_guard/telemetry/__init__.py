"""What others can observe of a running guard: metrics for Prometheus, traces for OpenTelemetry, the calls in its log.

Everything is measured from outside: `guard.py` and the adapters behind its ports know nothing of it, and a guard that
nobody observes runs without it. INVARIANT: an observer changes no decision, and its failure costs no call.
"""
