"""The worker as an operating system and Celery see it: its start, signals, name and heartbeat.

`resnextq worker` starts `supervisor`, whose child is the worker itself. Celery's loop hands each
message to the task in `chunk`.
"""
