"""Our changes to Flower, the dashboard: what it remembers, shows and refuses."""
