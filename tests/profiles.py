"""Profiles of Hypothesis that a command line may ask for: `--hypothesis-profile=long`."""

LONG = "long"
