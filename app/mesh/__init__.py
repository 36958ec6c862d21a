"""Maia, the mesh: nodes find each other and notice failures by gossip. README.md has the protocol in one page."""
