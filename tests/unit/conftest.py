"""Puts this folder on the import path, for ``wire_packets``, ``small_exchange``, ``virtual_time``."""
