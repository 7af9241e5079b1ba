"""The database for both sides: its tables, its clock, its schema's version.

Producers and workers make one engine from the settings and run their statements on it. `waits`
repeats a transaction while the database does not answer.
"""
