"""A Kite-compatible exchange on loopback: REST, WebSocket, prices, faults."""
