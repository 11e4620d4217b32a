"""Webhooks after Standard Webhooks: signed, delivered at least once, tried again for about a day.

`outbox` finds the jobs that ended and enqueues their first attempt; `delivery` makes one attempt
and says what is next; `backoff` says when; `message` is what is sent.
"""
