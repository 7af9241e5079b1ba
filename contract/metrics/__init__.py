"""Metrics for Prometheus: how they are declared, and the port that serves them.

Workers, the dispatcher and the HTTP API each declare their own metrics. `docs/metrics.md` is
generated from these declarations.
"""
