"""The backend that takes over where pycurl is missing or broken."""
