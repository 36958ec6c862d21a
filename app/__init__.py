"""The Astromesh node: one program that is every node of an AI-agent platform."""

__version__ = "0.1.0"
