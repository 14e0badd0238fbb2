"""tctl and the tinyport command: what operators run."""
