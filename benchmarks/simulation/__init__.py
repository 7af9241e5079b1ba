"""A queue of any size on paper: a simulation of dispatcher, Redis, workers and database.

`python -m benchmarks.simulation` prints the tables of docs/scaling.md. Its constants come from
benchmarks/system/fleet.py, which measures a real fleet.
"""
