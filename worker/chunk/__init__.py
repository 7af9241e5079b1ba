"""One chunk's run, from claim to store: a message comes in, and rows go to SQL.

Celery's threads call `task`. It claims the chunk, gives its images to `pool`, and waits until they
have an outcome; images that are slower than the task are stored when they come.
"""
