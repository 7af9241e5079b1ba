"""A worker's counts and times, and their export to Prometheus.

Other folders add values to `stages`, many at once. `exporter` serves them over HTTP.
"""
