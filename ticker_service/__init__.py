"""The engine: ticks in, priced batches out; orders in, exactly one effect at the broker.

A folder is a stage of a path or a wall against the outside, a file is one step:

* ``domain``: values and rules of the market, without I/O
* ``pricing``: arithmetic on columns of options
* ``market``: the tick path, feed -> decode -> validate -> batch -> price -> publish
* ``ports``: what the engine needs from the outside, as protocols
* ``adapters``: those protocols on Kite and Redis
* ``simulator``: a Kite-compatible exchange on loopback
* ``client``: what a consumer of the Redis channels imports
* ``runtime``: asyncio tools without domain words
* ``engine`` runs it all; ``assembly`` is the only place that picks the real adapters
"""
