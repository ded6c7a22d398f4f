"""Puts the ``sim_*`` modules on the import path."""
