"""Which networks there are: architecture, preprocessing, categories, and where weights lie.

A model's name or a JSON file comes in, and a frozen `ModelSpec` goes out; it loads no torch.
"""
