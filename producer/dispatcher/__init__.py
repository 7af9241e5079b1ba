"""From SQL to Redis: `resnextq dispatch` keeps a few seconds of work in the queue.

Chunks that are due come in and messages go out. One leading process also takes chunks back from
dead workers, finds lost messages and images that crash workers, and ends and counts jobs.
"""
