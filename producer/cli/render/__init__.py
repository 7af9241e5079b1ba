"""What a command shows: tables, progress and JSON, made of the values that `jobs` returns.

Each function takes values and returns or prints text; none of them reads the database.
"""
