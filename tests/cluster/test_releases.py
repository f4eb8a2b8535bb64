"""Releases under steady load: a good one takes over without a lost request, a broken one never does."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from load import Load
from real_cluster import SETTINGS, WORKERS, RealCluster, wait
from record import Record

DEADLINE_S = 120.0
"""What a broken release is given. Its answer must come within this and what the command needs to apply it."""
APPLY_S = 90.0
RESIZED_S = 180.0
SWITCHED_S = 20.0
"""A cluster claims jobs once it has answered a user, and users keep their connections to the old one for 10 s."""
SHOWN = "import serve_app.texts as texts; print(open(texts.__file__).read())"
ACTIVE = """
import json, os
from redis import Redis
with Redis.from_url(os.environ["REDIS_URL"], socket_timeout=30) as redis:
    print(json.dumps(redis.hget("active", "cluster").decode()))
"""
"""The cluster whose models may claim jobs."""


def _settled(record: Record, cluster: RealCluster, load: Load) -> None:
    account = record.settled(load, slowest="cluster_slowest_release_s")
    record.measured(cluster_broken_in_order=account.broken)
    cluster.wait_until_whole()


def test_fewer_and_more_workers(cluster: RealCluster, record: Record) -> None:
    """In place: nothing fails, but the replicas are made anew, and connections break where a gateway goes."""
    before = cluster.active()
    with Load(cluster, "resized") as load:
        for count in (2, 1):
            cluster.resize(count)
            cluster.run("deploy")
            wait(
                lambda count=count: all(cluster.ready(one) == count for one in WORKERS),
                RESIZED_S,
                f"{count} of each are not there",
            )
    assert cluster.active() == before
    record.settled(load, slowest="cluster_slowest_resized_s")


@pytest.mark.short
def test_changed_setting(cluster: RealCluster, record: Record) -> None:
    before = cluster.active()
    cluster.set(JOB_TTL="3599")
    with Load(cluster, "changed-setting") as load:
        cluster.run("deploy")
        after = cluster.active()
        wait(lambda: cluster.in_redis(ACTIVE) == after, SWITCHED_S, f"jobs are not claimed for {after}")
        both = cluster.objects("rayclusters")
        cluster.wait_until_alone()
    assert len(both) == 2, "the old cluster ended before it stopped claiming"
    assert cluster.active() == after != before
    _settled(record, cluster, load)


def test_rollback(cluster: RealCluster, record: Record) -> None:
    before = cluster.active()
    with Load(cluster, "rollback") as load:
        cluster.run("rollback")
        cluster.wait_until_alone()
    assert cluster.active() != before
    _settled(record, cluster, load)


def test_restart(cluster: RealCluster, record: Record) -> None:
    before = cluster.active()
    with Load(cluster, "restart") as load:
        cluster.run("restart", "service")
        cluster.wait_until_alone()
    assert cluster.active() != before
    _settled(record, cluster, load)


def test_upgrade_to_another_image(cluster: RealCluster, record: Record) -> None:
    before = cluster.release()["image"]
    source, line = cluster.checkout / "serve_app" / "texts.py", "# another image"
    source.write_text(f"{source.read_text()}{line}\n")
    with Load(cluster, "upgrade") as load:
        cluster.run("upgrade", timeout_s=900)
        cluster.wait_until_alone()
    assert cluster.release()["image"] != before
    pod = cluster.pods("gateway")[0]["metadata"]["name"]
    assert line in cluster.kubectl("exec", pod, "--container", "ray-worker", "--", "python", "-c", SHOWN)
    _settled(record, cluster, load)


class TestBroken:
    """The release before goes on serving; `deploy` ends within its deadline, with the reason and what to do."""

    @pytest.fixture(autouse=True)
    def taken_back(self, cluster: RealCluster) -> Iterator[None]:
        settings = cluster.checkout / SETTINGS
        before = settings.read_text()
        yield
        settings.write_text(before)
        cluster.run("deploy")

    def refused(self, cluster: RealCluster, record: Record, name: str, *words: str) -> str:
        """What `deploy` says of a broken release that is tried under load."""
        before = cluster.active()
        with Load(cluster, name) as load:
            ended = cluster.run("deploy", *words, "--timeout", f"{DEADLINE_S:g}", well=False)
        assert ended.status != 0, ended.said
        assert ended.seconds < DEADLINE_S + APPLY_S
        assert cluster.active() == before
        record.settled(load, slowest="cluster_slowest_release_s")
        return ended.said

    def test_image_that_does_not_exist(self, cluster: RealCluster, record: Record) -> None:
        image = "localhost/sem-image-classifier:000000000000"
        said = self.refused(cluster, record, "no-image", "--release", _release(cluster, image=image))
        assert image in said
        assert "deploy --release" in said

    def test_model_that_the_image_does_not_hold(self, cluster: RealCluster, record: Record) -> None:
        model = {"MODEL_SOURCE": "hugging_face", "MODEL_ID": "nobody/nothing", "MODEL_REVISION": "0" * 40}
        cluster.set(**model)
        release = _release(cluster, **{name.lower(): value for name, value in model.items()})
        said = self.refused(cluster, record, "no-model", "--release", release)
        assert "nobody/nothing" in said
        assert "rollback" in said

    def test_setting_that_the_code_refuses(self, cluster: RealCluster, record: Record) -> None:
        cluster.set(JOB_TTL="0")
        said = self.refused(cluster, record, "refused-setting")
        assert "JOB_TTL" in said.upper()
        assert "rollback" in said

    def test_migration_that_fails(self, cluster: RealCluster, record: Record) -> None:
        """The database holds a file that was edited since: the history names another content."""
        edited = "UPDATE schema_migrations SET sha256 = reverse(sha256) WHERE name LIKE '0001%'"
        cluster.sql(edited)
        try:
            said = self.refused(cluster, record, "no-migration")
        finally:
            cluster.sql(edited)
        assert "0001_api_usage.sql" in said
        assert "deploy --release" in said
        cluster.wait_until_whole()


def _release(cluster: RealCluster, **changes: str) -> str:
    """The path of a release like the newest one but for this."""
    path = cluster.checkout / "build" / "broken.json"
    path.write_text(json.dumps({**cluster.release(), **changes}))
    return str(path)
