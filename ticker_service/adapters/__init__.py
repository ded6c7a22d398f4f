"""The ports of the engine on real products: the Kite feed, its instruments dump, Redis."""
