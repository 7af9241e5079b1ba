"""Redis for both sides: a Celery app from the settings, and the message for a chunk.

The dispatcher encodes a `ChunkMessage` and publishes it; a worker's task decodes it.
"""
