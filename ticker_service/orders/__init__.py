"""The path of an order: order -> admit -> journal -> execute -> settle -> report.

``pipeline`` calls the steps; ``admit`` and ``pre_trade`` check an instruction, ``intake`` journals
it, ``dispatch`` has it carried, ``execute`` sends it at most once if ``holds`` lets it leave,
``classify`` says what became of the send and ``outcomes`` records it, ``settle`` finds out where
that is not known, ``book_watch`` says when ``book`` makes its passes over the broker's book and
``reconcile`` merges it, ``report`` tells whoever listens.
"""
