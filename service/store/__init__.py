"""Postgres: one module per table, each SQL constant above the only function that runs it.

The only folder that knows SQL and asyncpg. `db` is the first argument of every function, `caller`
the second where somebody's data is touched, and the owner and the session are in the SQL.
"""
