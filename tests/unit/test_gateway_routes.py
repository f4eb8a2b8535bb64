"""The route table keeps its promises to itself, and jobs show as clients know them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_app.contracts import Failure, Job, JobStatus
from serve_app.errors import InternalError, QueueFull, StoreFull, TokenInvalid, TokenMissing
from serve_app.gateway.app import SHUTDOWN_S
from serve_app.gateway.http import problem_response
from serve_app.gateway.ratelimit import ConcurrencyLimit
from serve_app.gateway.routes.table import ROUTES
from serve_app.gateway.schemas import jobs as views
from serve_app.gateway.schemas.common import timestamp, timestamp_or_none, with_plus
from serve_app.gateway.uploads import SILENCE_S, Pace, UploadBudget
from serve_app.jobs.dispatcher import CLOSE_S, GIVE_BACK_S
from serve_app.settings import MIB, Settings

SLOW = ConcurrencyLimit(1, 1)
OPEN = {"/api/v1/version", "/health", "/__health", "/livez", "/readyz", "/healthz", "/metrics"}
OPEN |= {"/openapi.json", "/docs", "/problems/{slug}", "/v2", "/v2/health/live", "/v2/health/ready"}
OPEN |= {"/config"}
OPEN |= {"/api/v1/files/{job_id}/{name}"}


def test_only_these_routes_are_open_and_all_others_are_counted() -> None:
    assert {route.path for route in ROUTES if route.tracked is None} == OPEN
    older = {route.path: route.tracked for route in ROUTES}
    assert older["/api/v1/inference"] == "inference"
    assert older["/api/v1/jobs/status"] == "job_status"
    assert older["/api/v1/jobs/results"] == "job_results"


def test_every_method_and_path_is_there_once() -> None:
    pairs = [(route.method, route.path) for route in ROUTES]
    assert len(set(pairs)) == len(pairs)
    paths = [route.path for route in ROUTES]
    after = paths[paths.index("/api/v1/jobs/{job_id}") + 1 :]
    assert all(not path.startswith("/api/v1/jobs/") for path in after if "{" not in path)


def job(status: JobStatus, failure: Failure | None = None) -> Job:
    return Job("id", "owner", "model", status, {}, None, 1_767_225_600_123, failure=failure, completed_at=1)


@pytest.mark.parametrize("failure", [None, Failure("job-dead", "It was given up.")])
def test_a_job_without_result_is_failed_with_a_reason_on_the_older_routes(failure: Failure | None) -> None:
    status = JobStatus.FAILED if failure else JobStatus.CANCELLED
    shown = views.results_of(job(status, failure))
    assert shown["status"] == views.status_of(job(status, failure))["status"] == "FAILED"
    assert shown["result"] is None
    assert shown["error"] == ("job-dead: It was given up." if failure else "job-cancelled: The job was cancelled.")
    assert views.job_object(job(status, failure), 3600)["status"] == status.value


def test_an_ended_job_tells_until_when_its_record_is_there_unless_it_is_dead() -> None:
    assert views.job_object(job(JobStatus.CANCELLED), 3600)["expires_at"] == "1970-01-01T01:00:00.001Z"
    assert views.job_object(job(JobStatus.FAILED, Failure("job-dead", "")), 3600)["expires_at"] is None
    assert views.job_object(replace(job(JobStatus.PENDING), completed_at=None), 3600)["expires_at"] is None


def test_times_are_utc_to_the_millisecond() -> None:
    assert timestamp(1_767_225_600_123) == "2026-01-01T00:00:00.123Z"
    assert timestamp(1_767_225_600_000) == "2026-01-01T00:00:00.000Z"
    assert timestamp_or_none(None) is None


def test_a_problem_has_the_headers_its_status_asks_for() -> None:
    def headers(error: Exception) -> dict[str, str]:
        assert isinstance(error, TokenMissing | TokenInvalid | QueueFull | InternalError)
        return dict(problem_response(error, path="/é\r\n" + "x" * 5000, request_id="r").headers)

    assert "error=" not in headers(TokenMissing("no token"))["www-authenticate"]
    assert headers(TokenInvalid('a "quoted" reason'))["www-authenticate"].endswith(
        "error_description=\"a 'quoted' reason\""
    )
    assert headers(QueueFull("full", retry_after=7))["retry-after"] == "7"
    assert headers(QueueFull("full"))["retry-after"] == "2"
    assert "retry-after" not in headers(InternalError("no"))


def test_one_user_has_a_share_of_the_upload_budget_and_what_is_declared_holds_nothing() -> None:
    budget = UploadBudget(100, 60)
    with budget.share("ada") as first, budget.share("ada") as second, budget.share("bob") as other:
        first.expect(60)
        second.expect(60)
        assert budget.held == 0
        first.reach(40)
        first.reach(20)  # held already
        assert (first.held, budget.held) == (40, 40)
        with pytest.raises(StoreFull, match="You have"):
            second.expect(21)
        with pytest.raises(StoreFull, match="You have"):
            second.reach(21)
        other.expect(60)
        other.reach(60)
        with pytest.raises(StoreFull, match="Too many"):
            second.reach(1)
    assert (budget.held, budget.held_by) == (0, {})


def test_a_user_may_always_send_the_largest_body_there_is() -> None:
    assert Settings().upload_bytes_per_user == 128 * MIB
    assert Settings(upload_bytes_in_flight=60 * MIB, batch_max_bytes=MIB).upload_bytes_per_user == 52 * MIB
    assert Settings(upload_bytes_in_flight=50 * MIB).upload_bytes_per_user == 50 * MIB


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("2026-10-01T08:00 02:00", "2026-10-01T08:00+02:00"),
        ("2026-10-01 08:00:00.5 0200", "2026-10-01 08:00:00.5+0200"),
        ("20261001T080000 02", "20261001T080000+02"),
        ("2026-10-01T08:00-02:00", "2026-10-01T08:00-02:00"),
        ("2026-10-01T08:00+02:00", "2026-10-01T08:00+02:00"),
        ("2026-10-01 08:00", "2026-10-01 08:00"),  # a time of day, no offset
        ("2026-10-01", "2026-10-01"),
        ("7d", "7d"),
        (5, 5),
    ],
)
def test_a_space_where_the_plus_of_an_offset_was_is_read_as_it(sent: object, meant: object) -> None:
    assert with_plus(sent) == meant


async def test_a_body_has_its_rate_its_longest_pause_and_its_total_and_a_deadline_that_has_passed_stays() -> None:
    async with asyncio.timeout(None) as deadline:
        await asyncio.sleep(0)
        short = Pace(deadline, 30, Settings(upload_timeout_s=50), SLOW)
        short.arrived(0)
        short.arrived(10**12)
        assert deadline.when() == pytest.approx(asyncio.get_running_loop().time() + 50, abs=0.5)
        pace = Pace(deadline, 30, Settings(), SLOW)
        pace.arrived(0)
        pace.arrived(64_000)
        assert deadline.when() == pytest.approx(asyncio.get_running_loop().time() + 12, abs=0.5)
        pace.arrived(10**12)
        assert deadline.when() == pytest.approx(asyncio.get_running_loop().time() + SILENCE_S, abs=0.5)
        pace.ended()
        assert deadline.when() == pytest.approx(asyncio.get_running_loop().time() + 30, abs=0.5)

    async def late() -> None:
        async with asyncio.timeout(0) as deadline:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                Pace(deadline, 30, Settings(), SLOW).arrived(1)
                raise

    with pytest.raises(TimeoutError):
        await late()


def test_a_gateway_that_ends_has_time_to_give_its_chunks_back() -> None:
    """Else they would wait for their leases, and each would cost its jobs a delivery."""
    give_back_and_close_the_chunk = 2 * GIVE_BACK_S
    assert CLOSE_S + give_back_and_close_the_chunk < SHUTDOWN_S
