"""YAML in, a spec or all of its mistakes out."""
