"""What a person sees in a terminal: the option chain, ``tail``, ``demo``."""
