"""The tick path: subscribe, then decode -> validate -> batch -> price -> publish (pipeline.py)."""
