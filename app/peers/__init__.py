"""Peers: who they are, what they serve, and who of them is in the local routing view."""
