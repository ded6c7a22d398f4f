"""HTTP listeners of the daemon."""
