"""One file for each step of the schema, numbered in order. Alembic runs them.

A step imports nothing from this project, because the tables may change after it.
"""
