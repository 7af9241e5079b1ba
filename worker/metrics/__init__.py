"""What a worker counts and times, and how Prometheus reads it.

Other rooms add values to `stages`, many at once. `exporter` shows them over HTTP when it is asked.
"""
