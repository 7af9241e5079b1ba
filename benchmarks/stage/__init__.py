"""One stage alone: decoding, the main process's CPU, the start of the command line."""
