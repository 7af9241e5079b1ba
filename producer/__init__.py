"""What people and schedulers run: the command line, submit, the dispatcher, and a job's state.

URIs come in, and rows of jobs and chunks go to SQL. The dispatcher sends messages from SQL to
Redis. Nothing here loads torch, so a small machine can run it.
"""
