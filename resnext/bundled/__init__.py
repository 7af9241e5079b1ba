"""The small model that is shipped: its weights, and the program that trained them."""
