"""A job after its submit: its state, its results, cancel and retry.

The command line passes a job's id. Each function reads or changes rows in SQL and returns values.
None sends messages.
"""
