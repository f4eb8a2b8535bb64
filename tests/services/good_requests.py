"""Requests that pass, for every route of the description: what they name is made for each of them."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from gateway_parts import PICTURE, VERSION, Running, as_admin
from schemathesis import Case

USER: Final = "root"
"""An admin, who asks for all of it."""
NOBODY: Final = "0" * 32
BLOCK: Final = {"principal_id": NOBODY, "name": "nobody", "reason": "A test."}
OVERRIDE: Final = {**BLOCK, "submits_per_s": 5}
STOP: Final = {"what": "intake", "model": "words", "message": "A test."}
HOOK: Final = {"url": "https://lab.example.org/hook"}
BATCH: Final = {"model": "words", "items": [{"params": {"text": "a b"}}, {"image_url": "https://example.org/a.png"}]}
MODEL: Final = "sem-classifier"
B64: Final = base64.b64encode(PICTURE).decode()
TENSOR: Final = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [B64]}
WORDS: Final = {"model": "words", "params": {"text": "a b"}}


class GoodRequests:
    """Puts what is there into made-up requests. Made in the gateway's loop; called from the fuzzer's thread."""

    def __init__(self, gateway: Running) -> None:
        self._gateway = gateway
        self._loop = asyncio.get_running_loop()
        self._made: dict[str, dict[str, str]] = {}
        """What is named in the paths of reads."""
        self._query: dict[str, str] = {}
        """Of the signed URL of that job's file."""

    def improve(self, case: Case) -> None:
        """Make a made-up request one that passes; headers that mean something are left out."""
        case.query, case.headers = {}, {}
        name = f"{case.method} {case.path}"
        case.path_parameters = asyncio.run_coroutine_threadsafe(self._names(case, name), self._loop).result(30)
        if "/files/" in case.path:
            case.query = dict(self._query)
        if name in self._bodies and case.media_type == "application/octet-stream":
            case.body = json.dumps(self._bodies[name]).encode()
            case.headers = {"Inference-Header-Content-Length": str(len(case.body))}
        elif name in self._bodies:
            case.body = self._bodies[name]
        elif case.path.endswith("/predict"):
            case.body = {"file": PICTURE}
        elif name == "POST /api/v1/batches":
            case.body = BATCH if case.media_type == "application/json" else {"image": [PICTURE, PICTURE]}
        elif name.endswith("/images") and case.method == "POST":
            case.body = {"file": PICTURE + uuid.uuid4().bytes}  # the same image twice is refused
        elif case.media_type == "multipart/form-data":
            case.body = {"image": PICTURE}
        elif case.path in ("/api/v1/jobs", "/api/v1/inference"):
            case.body = WORDS
        elif case.media_type == "application/json":
            case.body = {"job_id": self._made["job"]["job_id"]}

    _bodies: Final = {
        "POST /api/v1/webhooks": HOOK,
        "POST /api/v1/admin/blocks": BLOCK,
        "POST /api/v1/admin/overrides": OVERRIDE,
        "POST /api/v1/admin/stops": STOP,
        "POST /v1/models/{model_name}:predict": {"instances": [{"image": {"b64": B64}}]},
        "POST /v2/models/{model_name}/infer": {"inputs": [TENSOR]},
        "POST /v2/models/{model_name}/versions/{version}/infer": {"inputs": [TENSOR]},
    }

    async def _names(self, case: Case, name: str) -> dict[str, str]:
        """What stands in the path: made anew for a request that takes it away or changes it."""
        if case.path == "/api/v1/webhooks" and case.method == "POST":
            await self._forget_hooks()
        maker = self._makers().get(name)
        if maker is not None:
            return await maker()
        found = {"principal_id": NOBODY, "slug": "job-unknown", "model": MODEL, "model_name": MODEL, "version": VERSION}
        if "/images" in case.path:
            found |= await self._once("image", self._image)
        elif "/webhooks" in case.path:
            found |= await self._once("hook", self._hook)
        elif "/jobs" in case.path or "/files/" in case.path:
            found |= await self._once("job", self._job)
        elif "/batches" in case.path:
            found |= await self._once("batch", self._batch)
        return {parameter: found[parameter] for parameter in case.path_parameters or {}}

    async def _once(self, kind: str, make: Callable[[], Coroutine[Any, Any, dict[str, str]]]) -> dict[str, str]:
        if kind not in self._made:
            self._made[kind] = await make()
        return self._made[kind]

    def _makers(self) -> dict[str, Callable[[], Coroutine[Any, Any, dict[str, str]]]]:
        return {
            "DELETE /api/v1/jobs/{job_id}": self._ended_job,
            "POST /api/v1/jobs/{job_id}/retry": self._failed_job,
            "POST /api/v1/jobs/{job_id}/cancel": self._cancelled_job,
            "DELETE /api/v1/images/{image_id}": self._image,
            "DELETE /images/{image_id}": self._image,
            "DELETE /api/v1/batches/{batch_id}": self._ended_batch,
            "DELETE /api/v1/webhooks/{webhook_id}": self._new_hook,
            "GET /api/v1/admin/dead/{job_id}": self._dead_job,
            "DELETE /api/v1/admin/dead/{job_id}": self._dead_job,
            "POST /api/v1/admin/dead/{job_id}/requeue": self._dead_job,
            "DELETE /api/v1/admin/stops/{stop}": self._stop,
            "DELETE /api/v1/admin/blocks/{principal_id}": self._block,
            "DELETE /api/v1/admin/overrides/{principal_id}": self._override,
        }

    async def _job(self) -> dict[str, str]:
        job_id = await self._gateway.completed_with_file(USER)
        url = (await self._gateway.post(f"/api/v1/jobs/{job_id}/outputs/mask.png/url", USER)).json()["url"]
        self._query = dict(parse_qsl(urlsplit(url).query))
        return {"job_id": job_id, "name": "mask.png"}

    async def _image(self) -> dict[str, str]:
        sent = (await self._gateway.send_image(USER, PICTURE + uuid.uuid4().bytes)).json()
        return {"image_id": sent["image_id"], "object_id": sent["detection"]["detections"][0]["object_id"]}

    async def _ended_job(self) -> dict[str, str]:
        job_id = await self._gateway.submit(USER)
        await self._gateway.ended(job_id, USER)
        return {"job_id": job_id}

    async def _failed_job(self) -> dict[str, str]:
        return {"job_id": await self._gateway.failed_job(USER)}

    async def _cancelled_job(self) -> dict[str, str]:
        self._gateway.model.open.clear()
        job_id = await self._gateway.submit(USER)
        assert (await self._gateway.post(f"/api/v1/jobs/{job_id}/cancel", USER)).status_code == 200
        self._gateway.model.open.set()
        return {"job_id": job_id}

    async def _dead_job(self) -> dict[str, str]:
        return {"job_id": await self._gateway.dead_job(USER)}

    async def _batch(self) -> dict[str, str]:
        made = await self._gateway.post("/api/v1/batches", USER, json=BATCH)
        return {"batch_id": made.json()["batch_id"]}

    async def _ended_batch(self) -> dict[str, str]:
        made = await self._batch()
        await self._gateway.post(f"/api/v1/batches/{made['batch_id']}/cancel", USER)
        return made

    async def _forget_hooks(self) -> None:
        for hook in (await self._gateway.get("/api/v1/webhooks", USER)).json()["webhooks"]:
            await self._gateway.client.delete(hook["links"]["self"], headers=self._gateway.bearer(USER))

    async def _new_hook(self) -> dict[str, str]:
        await self._forget_hooks()
        made = await self._gateway.post("/api/v1/webhooks", USER, json=HOOK)
        return {"webhook_id": made.json()["webhook_id"]}

    async def _hook(self) -> dict[str, str]:
        made = await self._gateway.post("/api/v1/webhooks", USER, json=HOOK)
        path = made.json()["links"]["self"]
        trial = await self._gateway.post(f"{path}/test", USER)
        return {"webhook_id": made.json()["webhook_id"], **trial.json()}

    async def _stop(self) -> dict[str, str]:
        made = await as_admin(self._gateway, "POST", "/api/v1/admin/stops", json=STOP)
        return {"stop": made.json()["stop"]}

    async def _block(self) -> dict[str, str]:
        assert (await as_admin(self._gateway, "POST", "/api/v1/admin/blocks", json=BLOCK)).status_code == 201
        return {"principal_id": NOBODY}

    async def _override(self) -> dict[str, str]:
        assert (await as_admin(self._gateway, "POST", "/api/v1/admin/overrides", json=OVERRIDE)).status_code == 201
        return {"principal_id": NOBODY}
