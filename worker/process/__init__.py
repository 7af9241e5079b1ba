"""The worker as a process and as a Celery worker: its start, signals, name and heartbeat.

`resnextq worker` starts `supervisor`, whose child process is the worker itself. Celery's loop
passes each message to the task in `chunk`.
"""
