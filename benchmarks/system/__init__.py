"""The whole system by its real commands: the main job on photographs, and ten million images."""
