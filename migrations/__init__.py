"""The database's schema, step by step: `resnextq db upgrade` and `up` call `upgrade`.

An engine comes in, and its database has the newest schema when `upgrade` returns.
"""
