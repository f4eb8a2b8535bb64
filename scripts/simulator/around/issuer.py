"""The development issuer in a pod, reached by others than itself: `python issuer.py URL`. Its keys stay in /data."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn

from serve_app.local.issuer import Issuer, issuer_app
from serve_app.local.keys import SigningKeys

if __name__ == "__main__":
    url = sys.argv[1]
    application = issuer_app(Issuer(url, SigningKeys(Path("/data"))))
    uvicorn.run(application, host="0.0.0.0", port=urlsplit(url).port or 80, log_level="warning", lifespan="off")  # noqa: S104
