"""Ray's head, nodes, tasks and jobs."""
