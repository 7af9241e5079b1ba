"""Commands of `resnextq` that need the worker's packages: classify, doctor, export, flower.

The command line loads each by its name. They take settings and options, and none of them receives
messages.
"""
