"""`resnextq up`: the whole of it on one machine, each part a process that this one supervises."""
