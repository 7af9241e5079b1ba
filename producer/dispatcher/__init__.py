"""From SQL to Redis: `resnextq dispatch` keeps a few seconds of work in the queue.

It publishes due chunks as messages. One leading process also takes chunks back from dead workers,
finds lost messages and images that crash workers, and ends and counts jobs.
"""
