"""A Kite-compatible exchange on loopback: REST, WebSocket, prices, truth and faults.

Path: underlyings → market → packets → feed → connection, and REST beside it.

- ``options`` what a run is told; ``server`` starts and stops it all
- ``listing``, ``expiries``, ``catalogue`` what is listed, and Kite's dump of it
- ``underlyings``, ``smile``, ``market``, ``board`` what moves the prices, and where they stand
- ``packets`` the board in Kite's binary packets
- ``subscription``, ``connection``, ``feed`` the WebSocket root
- ``envelope``, ``requests``, ``request_rates``, ``sessions`` Kite's manners over HTTP
- ``login``, ``market_data``, ``quotes``, ``panel``, ``rest`` the REST root
- ``truth`` what the market really priced with, kept and read back

The order side has its place here: ``exchange`` for matching and the ledger, ``orders`` for its
routes; its updates go out through ``Feed.broadcast_text``.
"""

from ticker_service.simulator.options import SimulatedUser, SimulatorOptions
from ticker_service.simulator.server import Simulator

__all__ = ["SimulatedUser", "Simulator", "SimulatorOptions"]
