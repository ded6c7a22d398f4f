"""The path of an order: order -> admit -> journal -> execute -> settle -> report.

``pipeline`` calls the steps; ``admit`` checks and journals an instruction, ``execute`` sends it at
most once, ``classify`` says what became of the send, ``settle`` finds out where that is not known,
``book`` makes the passes over the broker's book and ``reconcile`` merges it, ``report`` tells
whoever listens.
"""
