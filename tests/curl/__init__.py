"""What is libcurl's: the driver, options, trust."""
