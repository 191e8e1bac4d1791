"""The curl backend: the driver, the options table, transfers, handles and errors."""
