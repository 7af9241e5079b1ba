"""Hypothesis profiles for the command line: `--hypothesis-profile=long`."""

LONG = "long"
