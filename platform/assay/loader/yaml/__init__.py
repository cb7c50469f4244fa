"""YAML text: read with places, mended where it is broken, written again."""
