"""What the terminal, the page and the file all show."""
