"""What the other rooms measure with: a web to fetch from, an installation, simulated workers.

Nothing here measures by itself.
"""
