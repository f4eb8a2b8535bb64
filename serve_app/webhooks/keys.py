"""The webhooks' keys in the job Redis, on one screen. `endpoint`: id of a registered receiver. `id`: of a delivery.

| key | what it is | bound | leaves |
|---|---|---|---|
| webhooks:{owner} | sorted set: endpoint → when it was made, ms | ENDPOINTS_MAX | with the owner's last endpoint |
| webhook:{endpoint} | hash: owner, URL, events, secrets, why it is off | endpoints | when its owner deletes it |
| webhook-events | stream: ended jobs of such owners; jobs' scripts write it | WEBHOOK_EVENTS_MAX | in a second |
| webhook-queue:{endpoint} | sorted set: waiting delivery → due, ms | QUEUE_MAX | when empty |
| webhook-due | sorted set: endpoint that has a queue → due, or end of the claim, ms | endpoints | when empty |
| webhook-waiting | sorted set: waiting delivery → when it was made, ms | HOUSE_MAX | when empty |
| webhook-log:{endpoint} | sorted set: ended delivery → its end, ms | LOG_MAX | LOG_TTL_S after the last end |
| webhook-delivery:{id} | hash: what it tells, its attempts | waiting ones, and LOG_MAX | LOG_TTL_S after its end |
| webhook-totals | hash: delivered, failed, dropped since this Redis was new | 3 fields | never |

WebhookStore have no TTL, because they are their owner's decisions; a user has at most ENDPOINTS_MAX.
"""

from __future__ import annotations

from typing import Final

from serve_app.lua import lua_keys, read_script
from serve_app.webhooks import limits

KEYS: Final = {
    "endpoints": "webhooks:{owner}",
    "endpoint": "webhook:{endpoint}",
    "events": "webhook-events",
    "queue": "webhook-queue:{endpoint}",
    "due": "webhook-due",
    "waiting": "webhook-waiting",
    "log": "webhook-log:{endpoint}",
    "delivery": "webhook-delivery:{id}",
    "totals": "webhook-totals",
}


def key(name: str, **parts: str) -> str:
    """The key of that row of the table."""
    return KEYS[name].format(**parts)


def script(name: str) -> str:
    """The text of `lua/<name>.lua` behind what all of them share: keys, numbers, `lua/common.lua`.

    Memory: every script but `register` may write into a full Redis. What they add is bounded, and deliveries end.
    """
    numbers = {name: value for name, value in vars(limits).items() if name.isupper() and isinstance(value, int)}
    head = [lua_keys(KEYS), *(f"local {name} = {value}" for name, value in sorted(numbers.items()))]
    flags = "" if name == "register" else "#!lua flags=allow-oom\n"
    return flags + "\n".join([*head, read_script(__package__, "common"), read_script(__package__, name)])
