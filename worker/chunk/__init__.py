"""One chunk's run, from claim to store: a message arrives, and rows go to SQL.

Celery's threads call `task`. It claims the chunk, gives its images to `pool`, and waits until they
have an outcome. Images that finish after the task has ended are stored later.
"""
