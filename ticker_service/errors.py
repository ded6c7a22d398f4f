"""Every error the engine raises, grouped by what the caller must do about it.

    TickerServiceError
    ├── ConfigurationError        stop at start; the message lists every fault at once
    ├── FeedError                 the feed cannot go on as it is
    │   ├── FeedDisconnected      reconnect
    │   └── LoginRequired         log in again; retrying with the same token is useless
    ├── CatalogError              the instruments dump is not usable
    ├── PublishError              Redis did not take a message; the publisher tries again
    ├── BrokerUnavailable         nothing was sent, or a read failed: safe to try again
    └── InvariantViolatedError    our bug: crash

Messages that blame the caller begin with ``Condition failed:``, ours with ``Invariant:``.
"""

from __future__ import annotations


class TickerServiceError(Exception):
    """Root of all errors of this project."""


class ConfigurationError(TickerServiceError):
    """The settings cannot be right; the process stops before it does anything."""


class FeedError(TickerServiceError):
    """The market data feed cannot go on as it is."""


class FeedDisconnected(FeedError):  # noqa: N818 - a state of the feed, named as operators name it
    """The socket is gone or silent; reconnect and announce a gap."""


class LoginRequired(FeedError):  # noqa: N818 - names what the operator has to do
    """The broker refused the access token; only a new login helps."""


class CatalogError(TickerServiceError):
    """The instruments dump is missing, malformed, or lacks what the settings ask for."""


class PublishError(TickerServiceError):
    """Redis did not confirm a message; whether subscribers saw it is unknown."""


class BrokerUnavailable(TickerServiceError):  # noqa: N818 - names the broker's state
    """The broker could not be asked; nothing was changed there, so asking again is safe."""


class InvariantViolatedError(TickerServiceError):
    """Something that cannot happen has happened: a bug of ours."""
