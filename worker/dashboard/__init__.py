"""What Flower, the dashboard, does otherwise with us: what it remembers, shows and refuses."""
