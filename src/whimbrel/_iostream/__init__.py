"""What :mod:`whimbrel.iostream` is made of, beside the streams themselves."""
