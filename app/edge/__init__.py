"""The edge: everything that surrounds a request from the network, before and after whoever serves it."""
