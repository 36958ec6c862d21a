"""The mesh next to its rivals: as many real processes of each on loopback, in a network namespace of its own."""
