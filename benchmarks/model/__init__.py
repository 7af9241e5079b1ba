"""The network alone: its speed beside its peers, its roofline, the bundled model's accuracy."""
