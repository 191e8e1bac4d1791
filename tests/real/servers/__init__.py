"""One module per real server: ``serve(...)`` starts it, yields where it listens, stops it."""
