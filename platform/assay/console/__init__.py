"""The console: pages in a browser, and a REST API, for the acts of the command line."""
