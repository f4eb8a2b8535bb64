"""ENVIRONMENT=prod starts with whole settings and refuses every development value and every placeholder."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from serve_app.settings import Settings

WHOLE: dict[str, Any] = {
    "environment": "prod",
    "redis_url": "rediss://:ff32a5c0d1e94b77@redis.facility.org/0",
    "database_url": "postgresql://app:ff32a5c0d1e94b77@db.facility.org/app?sslmode=verify-full",
    "oidc_issuers": "https://login.facility.org/realms/lab",
    "oidc_audience": "sem-image-classifier",
    "metrics_token": "3f1c2a3f1c2a3f1c2a",
    "model_source": "hugging_face",
    "model_id": "org/model",
    "model_revision": "4d00fc90d2127ca2ce683703bfed07b4d8a25bb2",
}


def test_whole_settings_are_taken() -> None:
    assert Settings(**WHOLE).environment == "prod"


def test_inside_the_cluster_stores_may_go_without_tls() -> None:
    for host in ("redis", "redis.sem-image-classifier.svc", "redis.sem-image-classifier.svc.cluster.local"):
        assert Settings(**{**WHOLE, "redis_url": f"redis://:ff32a5c0d1e94b77@{host}:6379/0"})
        assert Settings(**{**WHOLE, "database_url": f"postgresql://app:ff32a5c0d1e94b77@{host}/app"})


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"redis_url": ""}, "REDIS_URL"),
        ({"oidc_audience": ""}, "OIDC_AUDIENCE"),
        ({"oidc_issuers": "http://localhost:18080/default"}, "OIDC_ISSUERS"),
        ({"model_source": "demo"}, "MODEL_SOURCE"),
        ({"model_revision": "main"}, "MODEL_REVISION"),
        ({"image_url_private_hosts": "localhost:9000"}, "IMAGE_URL_PRIVATE_HOSTS"),
        ({"webhook_private_hosts": "localhost:9000"}, "WEBHOOK_PRIVATE_HOSTS"),
        ({"redis_url": "redis://:REPLACE-ME@redis/0"}, "REDIS_URL"),
        ({"oidc_audience": "changeme"}, "OIDC_AUDIENCE"),
        ({"metrics_token": "CHANGE_ME"}, "METRICS_TOKEN"),
        ({"metrics_token": "short"}, "METRICS_TOKEN is shorter than 16"),
        ({"redis_url": "rediss://:short@redis.facility.org/0"}, "REDIS_URL has a password of less than 16"),
        ({"redis_url": "redis://redis:6379/0"}, "REDIS_URL has a password of less than 16"),
        ({"redis_url": "redis://:ff32a5c0d1e94b77@10.1.2.3/0"}, "REDIS_URL leads out of the cluster without rediss"),
        ({"database_url": "postgresql://app:short@postgres/app"}, "DATABASE_URL has a password of less than 16"),
        (
            {"database_url": "postgresql://app:ff32a5c0d1e94b77@db.facility.org/app?sslmode=require"},
            "DATABASE_URL leads out of the cluster without sslmode=verify-full",
        ),
    ],
)
def test_a_development_value_or_a_placeholder_is_refused_by_name(changed: dict[str, str], named: str) -> None:
    with pytest.raises(ValidationError, match=f"ENVIRONMENT=prod refuses: .*{named}"):
        Settings(**{**WHOLE, **changed})


def test_only_a_gateway_needs_the_database() -> None:
    settings = Settings(**{**WHOLE, "database_url": ""})
    with pytest.raises(ValueError, match="DATABASE_URL"):
        settings.require_database()
    Settings(**WHOLE).require_database()
    Settings(environment="dev").require_database()
