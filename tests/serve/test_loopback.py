"""What faces the network: nothing; and what a client's headers can do to Serve: nothing to anybody else."""

from __future__ import annotations

import ipaddress

import psutil
import pytest
from large_tokens import check_large_tokens, large_tokens
from running_service import MODEL, RunningService
from service_client import Client


def test_no_process_of_ours_listens_outside_loopback(service: RunningService) -> None:
    listening = [(process, address) for process in service.processes() for address in _listening(process)]
    assert {service.cluster.api_port, service.stack.valkey.port, service.stack.postgres.port} <= {
        port for _, (_, port) in listening
    }
    assert [(process.name(), ip, port) for process, (ip, port) in listening if not _is_loopback(ip)] == []


def _listening(process: psutil.Process) -> list[tuple[str, int]]:
    try:
        return [tuple(one.laddr) for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    except psutil.NoSuchProcess:
        return []


def _is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


@pytest.mark.parametrize(
    "headers",
    [
        {"x-request-timeout-seconds": "0.001"},
        {"x-request-timeout-seconds": "many"},
        {"x-request-disconnect-disabled": "?1"},
        {"serve_multiplexed_model_id": "another", "x-session-id": "another"},
    ],
    ids=["timeout", "no-number", "disconnect", "multiplexed"],
)
async def test_headers_that_serve_obeys_do_no_harm(
    service: RunningService, client: Client, pictures: list[bytes], headers: dict[str, str]
) -> None:
    before = service.ledger(MODEL)
    answer = await client.post("/api/v1/jobs", files={"image": ("a.jpg", pictures[0])}, headers=headers)
    if answer.status_code == 202:
        [job] = await client.wait([answer.json()["job_id"]])
        assert job["status"] == "COMPLETED"
    else:
        assert answer.status_code in (400, 408), answer.text
    [job] = await client.wait([await client.submit(pictures[1])])
    assert (job["status"], job["deliveries"]) == ("COMPLETED", 1)
    assert service.ledger(MODEL)["accepted"] - before["accepted"] in (1, 2)


def test_serves_own_proxy_lets_the_largest_token_through(service: RunningService) -> None:
    check_large_tokens(service.cluster.url, large_tokens(service.token))
