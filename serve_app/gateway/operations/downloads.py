"""Files as answers: bytes that are no page of ours, whatever they say of themselves."""

from __future__ import annotations


def download_headers(file_name: str) -> dict[str, str]:
    """What makes an answer a file of this name, and nothing that a browser runs."""
    return {"Content-Disposition": f'attachment; filename="{file_name}"', "Content-Security-Policy": "sandbox"}
