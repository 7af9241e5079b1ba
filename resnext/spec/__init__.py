"""The known networks: architecture, preprocessing, categories, and the source of their weights.

Takes a model's name or a JSON file, and returns a frozen `ModelSpec`. Loads no torch.
"""
