"""One broker account's way in and its manners: tokens, login, breaker, limits, halts.

``tokens`` keeps the day's access token, ``login`` obtains it, ``breaker`` stops asking a broker
that is down, ``limits`` keeps the account under the broker's request rates, ``halts`` stops it when
it is refused as a whole.
"""
