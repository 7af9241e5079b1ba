"""What commands show: tables, progress and JSON, made from the values that `jobs` returns.

Each function takes values and returns or prints text. None of them reads the database.
"""
