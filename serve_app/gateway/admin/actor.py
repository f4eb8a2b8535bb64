"""The admin who acts, and the event that tells the audit table of it."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serve_app.contracts import AuditEvent, Json, Principal
from serve_app.gateway.admin.audit import client_address
from serve_app.texts import sanitize_name, sanitize_text

if TYPE_CHECKING:
    from serve_app.gateway.service import Call


@dataclass(frozen=True, slots=True)
class Actor:
    """Who it is, from where, in which request."""

    principal: Principal
    address: str
    request_id: str

    def event(self, action: str, target: str, detail: Json | None = None) -> AuditEvent:
        """What is done now, for the script that does it. `detail` is what was decided, if anything."""
        return AuditEvent(
            event_id=uuid.uuid4().hex,
            timestamp=int(time.time() * 1000),
            principal_id=self.principal.id,
            username=sanitize_name(self.principal.name),
            action=action,
            target=target,
            detail=json.dumps(detail) if detail else "",
            address=sanitize_text(self.address, 200),
            request_id=self.request_id,
        )

    def signed(self, decision: Json, event: AuditEvent) -> Json:
        """A decision with who made it and when."""
        return {**decision, "by": self.principal.name, "by_id": self.principal.id, "at": event.timestamp}


def actor_of(call: Call) -> Actor:
    """The admin behind a request."""
    return Actor(call.caller, client_address(call.request), call.request_id)
