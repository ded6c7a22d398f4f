"""What ``./scripts/bench`` runs: one module per suite, and the runner in ``__main__``.

A suite is a module with ``run(options) -> list[Result]``. It checks first that both sides compute
the same thing, and raises ``Disagreement`` if they do not; a ratio of different work says nothing.
"""
