"""The database's schema, step by step: `resnextq db upgrade` and `up` call `upgrade`.

`upgrade` takes an engine and brings its database to the newest schema.
"""
