"""Applications and handlers, over raw sockets, and the tutorials."""
