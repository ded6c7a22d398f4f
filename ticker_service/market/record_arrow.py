"""Published batches as Arrow streams for the record: the wire's columns, and what a row was of.

Tokens are given to other contracts after expiry, so every row says its contract by name. Pure.
Needs the optional extra ``arrow``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # ships no types

from ticker_service.market.encode_arrow import array_of, field_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ticker_service.domain.universe import Universe
    from ticker_service.market.columns import Column


@dataclass(frozen=True, slots=True)
class Schema:
    """What one run's rows look like.

    Before the wire's columns: ``published_at_us``, ``epoch``, ``seq`` of the batch, then
    ``tradingsymbol``, ``exchange``, ``instrument_type``, ``expiry``, ``strike`` of the contract.
    """

    universe: Universe
    columns: Sequence[Column]
    words: Sequence[pa.Array]
    epoch: int

    @classmethod
    def of(cls, universe: Universe, columns: Sequence[Column], *, epoch: int) -> Self:
        """Take what the wire's columns are, and make their words once."""
        words = [pa.array(column.words, pa.string()) for column in columns]
        return cls(universe, columns, words, epoch)


def stream(
    schema: Schema,
    values: Sequence[NDArray[Any]],
    seq: NDArray[np.int64],
    published_at_us: NDArray[np.int64],
) -> bytes:
    """Return rows as one Arrow IPC stream.

    Args:
        schema: What the rows look like.
        values: The wire's columns, shape ``(n,)`` each, in the order of the wire.
        seq: Number of the batch each row was in, shape ``(n,)``.
        published_at_us: When it went out, µs since the Unix epoch, shape ``(n,)``.
    """
    wire = list(zip(schema.columns, schema.words, values, strict=True))
    fields = [pa.field("published_at_us", pa.int64()), pa.field("epoch", pa.int64())]
    fields += [pa.field("seq", pa.int64())]
    arrays = [published_at_us, np.full(len(seq), schema.epoch, np.int64), seq]
    tokens = next(v for column, _, v in wire if column.name == "instrument_token")
    for name, array in _contract(schema.universe, tokens).items():
        fields.append(pa.field(name, array.type))
        arrays.append(array)
    fields += [field_of(column) for column, _, _ in wire]
    arrays += [array_of(column, words, array) for column, words, array in wire]
    batch = pa.RecordBatch.from_arrays(
        [pa.array(each) for each in arrays], schema=pa.schema(fields)
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _contract(universe: Universe, tokens: NDArray[np.uint32]) -> dict[str, pa.Array]:
    """Return what the tokens stood for."""
    rows, place = np.unique(universe.rows_of(tokens), return_inverse=True)
    table = universe.instruments.take(rows)
    texts = {
        name: pa.DictionaryArray.from_arrays(
            pa.array(place.astype(np.int32)), pa.array(getattr(table, name), pa.string())
        )
        for name in ("tradingsymbol", "exchange", "instrument_type")
    }
    strike = np.where(table.is_option(), table.strike, np.nan)[place]
    return {
        **texts,
        "expiry": pa.array(table.expiry[place], pa.date32()),
        "strike": pa.array(strike, from_pandas=True),  # NaN as null
    }
