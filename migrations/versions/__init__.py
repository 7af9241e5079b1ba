"""One file for each step of the schema, numbered in their order; Alembic runs them.

A step imports nothing of ours, since tables change after it.
"""
