"""One stage alone: decoding, the main process's CPU time, the start of the command line."""
