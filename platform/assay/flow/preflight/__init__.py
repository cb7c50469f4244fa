"""What can be known before anything is started: every mistake of a spec and of what it names, at
its place."""
