"""Programs for people: they talk HTTP to a node, and nothing else."""
