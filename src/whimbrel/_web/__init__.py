"""The machinery of ``httpserver`` and ``web``."""
