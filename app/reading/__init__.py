"""A program of its own that finds the text of a file. A node runs it as a child, so that no file can take the node along.

It imports nothing of the node, is given nothing but the file, and ends itself at its limits.
"""


class Unreadable(Exception):
    """A file without text that could be had; the message says why, and the remedy."""
