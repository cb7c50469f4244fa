"""Who holds what of the cluster, giving it back, and waiting for it."""
