"""What stands before the engines: the gateway."""
