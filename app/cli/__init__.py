"""`astromeshctl`, the command for those who run nodes: it talks HTTP to a node and reads configuration, and nothing else."""
