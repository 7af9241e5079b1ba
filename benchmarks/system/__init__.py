"""The whole system with its real commands: the main job on photographs, and ten million images."""
