"""What one socket was sent last of each instrument, the ground truth of delivery. For checks."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import numpy as np

from ticker_service.domain.tick import FULL_PACKET

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.simulator.packets import PacketTables


class SentPackets:
    """The latest packet of every row that was put on the socket, byte for byte.

    The packet is copied in the instant in which its frame is built: the tables it comes from move
    on while the socket takes the frame.
    """

    def __init__(self, instrument_token: NDArray[np.uint32]) -> None:
        self._instrument_token = instrument_token
        self._mode = np.zeros(len(instrument_token), np.uint8)
        self._packet = np.zeros((len(instrument_token), FULL_PACKET.itemsize), np.uint8)

    def note(self, rows: NDArray[np.intp], mode: NDArray[np.uint8], packets: PacketTables) -> None:
        """Remember the rows of a frame, shape ``(n,)``, and their modes."""
        self._packet[rows] = packets.latest(rows)
        self._mode[rows] = mode

    def by_token(self, packets: PacketTables, is_subscribed: NDArray[np.bool_]) -> dict[str, str]:
        """Return the packets in base64 by ``instrument_token``, as the endpoint answers.

        Args:
            packets: Knows how long they are.
            is_subscribed: Of every row; what the client has given up is left out.
        """
        rows = np.flatnonzero(is_subscribed & (self._mode > 0))
        lengths = packets.lengths(rows, self._mode[rows]).tolist()
        tokens = self._instrument_token[rows].tolist()
        return {
            str(token): base64.b64encode(self._packet[row, :length].tobytes()).decode()
            for row, token, length in zip(rows.tolist(), tokens, lengths, strict=True)
        }
