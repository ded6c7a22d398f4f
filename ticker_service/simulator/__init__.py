"""A Kite-compatible exchange on loopback: REST, WebSocket, prices, orders, truth and faults.

Path of a price: underlyings → market → packets → feed → connection, and REST beside it.
Path of an order: order_desk → order_rules → margins → exchange → ledger, books and updates.

- ``options`` what a run is told; ``server`` starts and stops it all
- ``listing``, ``expiries``, ``catalogue`` what is listed, and Kite's dump of it
- ``underlyings``, ``smile``, ``market``, ``board`` what moves the prices, and where they stand
- ``packets`` the board in Kite's binary packets
- ``subscription``, ``connection``, ``feed`` the WebSocket root
- ``envelope``, ``requests``, ``request_rates``, ``sessions`` Kite's manners over HTTP
- ``login``, ``market_data``, ``quotes``, ``panel``, ``rest`` the REST root
- ``orders``, ``portfolio`` the order side's routes; ``order_desk`` what each request goes through
- ``order_rates``, ``order_rules``, ``margins`` what is refused before there is an order
- ``order``, ``exchange``, ``matching`` an order, its states, and what it trades against;
  ``order_numbers`` what identifies it
- ``accounts``, ``positions``, ``order_rows`` what a user's orders come to, and Kite's rows of it
- ``updates`` order updates on the sockets; ``ledger`` what really happened
- ``order_faults``, ``order_answers`` what is armed against orders, and how an answer breaks
- ``truth`` what the market really priced with, kept and read back
"""

from ticker_service.simulator.options import SimulatedUser, SimulatorOptions
from ticker_service.simulator.server import Simulator

__all__ = ["SimulatedUser", "Simulator", "SimulatorOptions"]
