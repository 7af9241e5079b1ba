"""`resnextq up`: the whole system on one machine. One process supervises all the others."""
