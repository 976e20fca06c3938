"""A short question to the broker beside Celery's own connections: asked once, for whether it answers is what counts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

TIMEOUT_S = 2.0


@contextmanager
def ask_broker() -> Iterator[redis.Redis]:
    """Give a client for the time of the block; where the broker does not answer, asking raises redis.RedisError."""
    client = redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    )  # fmt: skip
    try:
        yield client
    finally:
        client.close()


def queue_lengths(queues: Sequence[str]) -> dict[str, int] | None:
    """Return how many messages wait in each queue, None where the broker does not say."""
    try:
        with ask_broker() as client:
            return {queue: int(client.llen(queue)) for queue in queues}
    except redis.RedisError:
        return None
