"""The bundled small model: its weights, and the program that trained them."""
