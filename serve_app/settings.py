"""Every setting, typed, frozen, read once from the environment (or `<NAME>` files under SECRETS_DIR).

The tables of docs/settings.md are made from these fields and their descriptions: `make generate`.
"""

from __future__ import annotations

import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from serve_app.contracts import without_repeats

MIB = 1024 * 1024
URL_SCHEMES = {"redis_url": ("redis://", "rediss://", "unix://"), "database_url": ("postgresql://", "postgres://")}
COMMIT = re.compile(r"[0-9a-f]{40}")
SECRET_MIN_CHARACTERS = 16
CLUSTER_NAMES = (".svc", ".svc.cluster.local")
"""How names of Services end, beside those of the own namespace, which have no dot."""
PLACEHOLDER = re.compile(r"REPLACE|CHANGE[-_]?ME|\bexample\.(?:com|net|org)\b", re.IGNORECASE)

BUCKET_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.-]+)*/?")
ENDPOINT_URL = re.compile(r"https?://[^/\s@]+/?")
ORIGIN = re.compile(r"\*|https?://[^/\s]+")
ROLE_QUOTA = re.compile(r"(\S+)=(\d{1,9})")

TOKEN_ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES256K", "ES384", "ES512", "EdDSA", "Ed25519", "Ed448"),
)
"""Every asymmetric signature of PyJWT, and the names that RFC 9864 gives to EdDSA on each of its curves."""

CommaList = Annotated[tuple[str, ...], NoDecode]
Rate = Annotated[float, Field(ge=0.01, le=10_000)]
"""Per second. The limiter counts whole microseconds between two requests: exact to 1 % at the upper end."""


class IssuerRule(BaseModel):
    """What differs for the tokens of one issuer: one value of OIDC_ISSUER_RULES."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    audience: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """A text or a list: the accepted audiences, in the place of OIDC_AUDIENCE."""
    audience_claim: Annotated[str, Field(min_length=1)] = "aud"
    """The claim that must hold an audience, for example `client_id`."""
    access_token_claim: str = ""
    """A claim that this issuer's access tokens have and its ID tokens lack. Empty: the general rule."""
    accept: Literal["access_token", "id_token"] = "access_token"
    """`id_token`: its ID tokens and nothing else, for issuers whose access tokens are opaque."""

    @field_validator("audience", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.accept == "id_token" and not self.audience:
            raise ValueError("accept=id_token needs audience: the id of the client whose users sign in")
        if self.accept == "id_token" and (self.access_token_claim or self.audience_claim != "aud"):
            raise ValueError("accept=id_token goes with neither access_token_claim nor audience_claim")
        return self


def _expanded(path: object) -> object:
    """With `~` and `$VARIABLES` as huggingface_hub reads them in the paths of its own settings."""
    return os.path.expandvars(os.path.expanduser(path)) if isinstance(path, str) else path


class Settings(BaseSettings):
    """What the service reads from its environment. Names in the environment are these in upper case."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", validate_default=True, hide_input_in_errors=True)

    environment: Literal["local", "dev", "stage", "prod"] = "local"
    """Where the service runs. `prod` refuses to start with values meant for development; see [below](#production)."""
    redis_url: SecretStr = SecretStr("")
    """The job Redis, version 7.0 or later, with `maxmemory-policy noeviction` and its data on disk: `redis://` or
    `rediss://` with user and password. Empty: `semapi up` starts a Valkey of its own."""
    database_url: SecretStr = SecretStr("")
    """PostgreSQL 15 or later, for usage, outcomes and images: `postgresql://user:password@host/database`. Empty:
    `semapi up` starts one of its own."""

    oidc_issuers: CommaList = ("http://localhost:18080/default",)
    """Accepted [token issuers](issuers/README.md), written exactly as in the `iss` of their tokens. Their keys are
    found by OpenID Connect discovery."""
    oidc_audience: CommaList = ()
    """Accepted audiences, for example `sem-image-classifier,api://sem-image-classifier`: the `aud` of a token must
    name one of them. Empty accepts any token of the issuer, whatever service it was made for, so set this wherever
    others can reach the service."""
    oidc_algorithms: CommaList = TOKEN_ALGORITHMS
    """Accepted signature algorithms of tokens. Each is used only with a key of its type, and never with a key whose
    own `alg` is another. Algorithms with a shared secret (`HS…`) and `none` cannot be named."""
    oidc_issuer_rules: Annotated[dict[str, IssuerRule], NoDecode] = {}
    """Exceptions for single issuers: a JSON object from issuer to [rule](issuers/README.md#a-rule-for-an-issuer). A
    rule sets other audiences, the claim that holds the audience, how the issuer's access tokens are recognised, or
    that its ID tokens are accepted."""
    oidc_group_claim: str = "groups"
    """Claim that names the caller's group in usage records: a text, or a list of which the first counts. Dots as in
    `OIDC_ROLES_CLAIMS`. Empty: no groups are stored."""
    oidc_roles_claims: CommaList = ("realm_access.roles", "roles", "groups", "scope")
    """Claims that hold the caller's roles: lists, or texts of words separated by spaces. All of them are read. A dot
    leads inside an object, unless a claim has the whole name, dots included."""
    oidc_admin_role: Annotated[str, Field(min_length=1)] = "sem-admin"
    """The role that makes an [admin](limits.md#who-is-an-admin). Users must not be able to give themselves any of the
    claims above."""
    cors_allowed_origins: CommaList = ()
    """Origins (`https://host`, no path) of web pages that may call the service with a token, or `*`. Empty: none."""

    metrics_token: SecretStr = SecretStr("")
    """Bearer token of the scraper of [`GET /metrics`](operations.md#metrics). Empty: only admins may read the
    metrics."""
    traces_endpoint: str = ""
    """URL of a trace collector, OTLP over HTTP, with its path: `http://collector:4318/v1/traces`. Needs the extra
    `traces`, and on Kubernetes the component [`traces`](manifests.md#components), which opens the way to it. Empty:
    no [traces](operations.md#traces) are made, and those of callers are passed on."""

    rate_submits_per_s: Rate = 20.0
    """Submits of one user per second; twice as many at once."""
    rate_reads_per_s: Rate = 100.0
    """All other requests of one user per second; twice as many at once."""
    rate_house_submits_per_s: Rate = 100.0
    """Submits of all users together per second; twice as many at once."""
    rate_house_reads_per_s: Rate = 200.0
    """All other requests of all users together per second, except those to admin routes; twice as many at once."""
    quota_submits_per_day: Annotated[int, Field(ge=0)] = 0
    """Submits of one user per day (UTC). 0: no quota."""
    quota_submits_per_day_roles: CommaList = ()
    """`role=number`, for example `staff=5000,students=500`: the quota of users with that role, instead of the general
    one. With several of these roles the largest number counts; 0 is no quota."""

    job_ttl: Annotated[int, Field(ge=1)] = 3600
    """Seconds that a job's record and result stay after the job ended. A job that has not ended never disappears."""
    lease_seconds: Annotated[float, Field(ge=1)] = 3.0
    """Seconds without a sign of life from a job's process until the job is given to another. Smaller recovers sooner;
    larger tolerates longer pauses of a busy machine."""
    queue_max_jobs: Annotated[int, Field(ge=1)] = 10_000
    """Jobs of one model that may wait or run; beyond it 503 [queue-full](problems.md#queue-full)."""
    queue_max_bytes: Annotated[int, Field(ge=1)] = 1024 * MIB
    """Bytes of the stored inputs and parameters of all jobs not ended (1 GiB); beyond it 503
    [queue-full](problems.md#queue-full)."""
    dead_max_jobs: Annotated[int, Field(ge=1)] = 1000
    """Dead jobs kept per model for inspection; the oldest leave first."""
    outbox_max: Annotated[int, Field(ge=1)] = 100_000
    """Records that may wait for PostgreSQL. Beyond it usage records are counted instead of stored, and a report says
    so; outcomes of jobs are always stored."""

    image_max_bytes: Annotated[int, Field(ge=1)] = 50 * MIB
    """Largest image in bytes (50 MiB), uploaded or fetched."""
    image_max_pixels: Annotated[int, Field(ge=1)] = 100_000_000
    """Largest image in pixels: width × height of one frame."""
    image_max_pixels_in_steps: Annotated[int, Field(ge=1)] = 500_000_000
    """The same for TIFF and JPEG images of models that read them in steps ([`thumbnail`](thumbnails.md)), if it is
    larger."""
    image_max_frames: Annotated[int, Field(ge=1)] = 64
    """Highest frame of an animation (GIF, APNG, WebP) that `page` can choose: all frames before it are decoded too.
    There is no limit on frames and pages that are not read."""
    image_store_share: Annotated[float, Field(gt=0, le=0.8)] = 0.6
    """Share of Redis' `maxmemory` that stored images may take together; beyond it 503
    [store-full](problems.md#store-full)."""
    image_store_url: str = ""
    """`s3://bucket/prefix`: where images and outputs are stored, below a prefix that nothing else uses. Empty: in the
    job Redis. [More](image-store.md)."""
    s3_endpoint_url: str = ""
    """The S3-compatible server, `http(s)://host[:port]`. Empty: AWS."""
    s3_public_url: str = ""
    """The address of that server as clients reach it, for the URLs they are given. Empty: the same."""
    s3_region: str = "us-east-1"
    """Region that requests to the bucket are signed for."""
    s3_access_key_id: SecretStr = SecretStr("")
    """Key of the bucket. Empty: as boto3 finds it (environment, pod or instance role)."""
    s3_secret_access_key: SecretStr = SecretStr("")
    """Secret of that key."""
    output_max_bytes: Annotated[int, Field(ge=1)] = 16 * MIB
    """Bytes of the files that a model returns with one result, all together (16 MiB)."""
    url_signing_key: SecretStr = SecretStr("")
    """Key of the [signed URLs](api.md#get-apiv1filesjob_idname) of outputs, 16 characters or more. Empty: a random key
    in the job Redis, which all gateways share. Another key makes all earlier URLs invalid."""
    image_url_private_hosts: CommaList = ()
    """Hosts, `host` or `host:port`, that `image_url` may reach although their address is private. For development;
    every other private address is refused."""
    webhook_private_hosts: CommaList = ()
    """Hosts, `host` or `host:port`, that [webhooks](webhooks.md) may reach although their address is private. For
    development; every other private address is refused."""
    upload_bytes_in_flight: Annotated[int, Field(ge=1)] = 256 * MIB
    """Bytes of request bodies and fetched images that one gateway replica holds at once (256 MiB), counted as they
    arrive. One user may have half of it, and at least the room of the largest body. Beyond it 503
    [store-full](problems.md#store-full)."""
    batch_max_items: Annotated[int, Field(ge=1, le=500)] = 200
    """Items of one batch."""
    batch_max_bytes: Annotated[int, Field(ge=1)] = 64 * MIB
    """Bytes of the files of one batch together (64 MiB); beyond it 413 [body-too-large](problems.md#body-too-large)."""
    images_model: str = "circles"
    """Model of the [images API](detections.md): a served model that finds objects. `dummy-detector` answers one fixed
    circle, for trying clients."""
    images_wait_s: Annotated[float, Field(ge=0, le=20)] = 20.0
    """Seconds that `POST /api/v1/images` waits for the objects; then it answers 202, and they are read later."""
    images_max_per_user: Annotated[int, Field(ge=1)] = 10_000
    """Images that one user may have; beyond it 409 [images-full](problems.md#images-full). They stay until their owner
    deletes them or the operator [prunes](reports.md#retention) them."""

    model_source: Literal["demo", "hugging_face", "private"] = "demo"
    """`demo`: the model in this repository, trained on drawn textures. `hugging_face`: a snapshot in the machine's
    Hugging Face cache. `private`: a snapshot under `MODEL_CACHE_DIR`, or the files in it. Nothing is downloaded while
    the service runs."""
    model_id: str = ""
    """`organisation/name`, for example `t0m-R/vit-sem-classification`. Needed for `hugging_face` and `private`."""
    model_revision: str = ""
    """Commit of the model, or a branch or tag that the cache knows. `hugging_face` needs it; `private` takes
    `refs/main` without it; production needs all 40 digits of a commit."""
    model_cache_dir: Annotated[Path, BeforeValidator(_expanded)] | None = None
    """For `private`: absolute path of a cache (`models--organisation--name/snapshots`), or of the folder with one
    model's files, as `hf download --local-dir` makes it. `~` and `$NAME` are expanded."""
    engine: Literal["torch", "openvino"] = "torch"
    """What runs the forward pass. `torch` is the reference; `openvino` is faster on a CPU and needs the extra of that
    name."""
    inference_threads: Annotated[int, Field(ge=0)] = 0
    """Threads of one forward pass. 0: as many as the replica has processors."""
    forward_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds that a forward pass may take. A replica that takes longer is replaced; a job that was alone in the pass
    ends FAILED, several go to another replica."""
    decode_workers: Annotated[int, Field(ge=1)] = 1
    """Processes that decode images, per model replica."""
    decode_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    """Seconds that decoding one image may take; then its job fails with
    [image-too-costly](problems.md#image-too-costly)."""
    decode_memory_mib: Annotated[int, Field(ge=256)] = 2048
    """MiB that one decoding process may take in addition to what it has at its start. It must be at least three times
    `IMAGE_MAX_BYTES`: the file as it comes, a copy, and the decoded pixels."""

    submit_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds that a submit may take once its body is in, fetching an `image_url` included; then 504
    [deadline-exceeded](problems.md#deadline-exceeded)."""
    predict_model: str = "ocr"
    """Model that `POST /predict` asks."""
    detector_model: str = "circles"
    """Model that the name `aiq-detector` means in the [KServe V1 protocol](protocols.md)."""
    predict_wait_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds that a route which answers with the result waits for its job, and at most what is left of
    `SUBMIT_TIMEOUT_S`."""
    upload_min_bytes_per_s: Annotated[int, Field(ge=1)] = 32_000
    """Least rate of a request body after its first 10 seconds (of a read: after `READ_TIMEOUT_S`, if that is less).
    Below it, or after 60 seconds without a byte, 504. Bodies that take more than 2 s are limited to 48 at once in a
    gateway replica, 16 of one user; beyond it 503."""
    upload_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that a whole request body may take; then 504. Keep the sum of this, `SUBMIT_TIMEOUT_S` and 20 s of
    `Prefer: wait` below `request_timeout_s` in the Serve config (700), at which Serve cuts a request off."""
    read_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """Seconds that a read may take; then 504."""
    stream_max_s: Annotated[float, Field(gt=0)] = 290.0
    """Seconds after which a [stream of events](api.md#get-apiv1jobsjob_idevents) ends itself, and its client comes
    back. Keep it 10 s below `request_timeout_s` in the Serve config (700), and below what the edges give a stream
    (310 s)."""

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, object]) -> dict[str, object]:
        for name in [name for name, field in cls.model_fields.items() if isinstance(field.default, tuple)]:
            if isinstance(text := values.get(name), str):
                values[name] = tuple(part.strip() for part in text.split(",") if part.strip())
        return values

    @field_validator("oidc_issuer_rules", mode="before")
    @classmethod
    def _read_rules(cls, value: object) -> object:
        """Faults are named by issuer and member here: the place that pydantic names would be in capitals."""
        try:
            rules: Any = value
            if isinstance(value, str):
                rules = json.loads(value or "{}", object_pairs_hook=without_repeats)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}") from None
        if not isinstance(rules, dict):
            raise ValueError("must be a JSON object of issuers and their rules")
        read = {}
        for issuer, rule in rules.items():
            try:
                read[issuer] = IssuerRule.model_validate(rule)
            except ValidationError as error:
                faults = [": ".join([*map(str, fault["loc"]), fault["msg"]]) for fault in error.errors()]
                raise ValueError(f"{issuer}: {'; '.join(faults).replace('Value error, ', '')}") from None
        return read

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for name, schemes in URL_SCHEMES.items():
            if (url := getattr(self, name).get_secret_value()) and not url.startswith(schemes):
                raise ValueError(f"{name.upper()} must begin with {' or '.join(schemes)}")
        if self.model_source == "hugging_face" and not (self.model_id and self.model_revision):
            raise ValueError("MODEL_SOURCE=hugging_face needs MODEL_ID and MODEL_REVISION")
        if self.model_source == "private" and not (self.model_id and self.model_cache_dir):
            raise ValueError("MODEL_SOURCE=private needs MODEL_ID and MODEL_CACHE_DIR")
        if self.model_cache_dir and not self.model_cache_dir.is_absolute():
            raise ValueError("MODEL_CACHE_DIR must be an absolute path")
        if not self.oidc_issuers:
            raise ValueError("OIDC_ISSUERS must name at least one issuer")
        if wrong := [origin for origin in self.cors_allowed_origins if not ORIGIN.fullmatch(origin)]:
            raise ValueError(f"CORS_ALLOWED_ORIGINS: {', '.join(wrong)} must be scheme://host[:port] or *")
        if any(not ROLE_QUOTA.fullmatch(pair) for pair in self.quota_submits_per_day_roles):
            raise ValueError("QUOTA_SUBMITS_PER_DAY_ROLES must be role=number, comma separated")
        self._check_tokens()
        self._check_image_store()
        if self.environment == "prod" and (refused := self.production_faults()):
            raise ValueError("ENVIRONMENT=prod refuses: " + "; ".join(refused))
        return self

    def _check_tokens(self) -> None:
        if 0 < len(self.url_signing_key.get_secret_value()) < SECRET_MIN_CHARACTERS:
            raise ValueError(f"URL_SIGNING_KEY is shorter than {SECRET_MIN_CHARACTERS} characters")
        if strangers := self.oidc_issuer_rules.keys() - set(self.oidc_issuers):
            raise ValueError(f"OIDC_ISSUER_RULES: {', '.join(sorted(strangers))} is not in OIDC_ISSUERS")
        if unknown := [name for name in self.oidc_algorithms if name not in TOKEN_ALGORITHMS]:
            raise ValueError(
                f"OIDC_ALGORITHMS: unknown {', '.join(unknown)}; choose from {', '.join(TOKEN_ALGORITHMS)}"
            )
        if not self.oidc_algorithms:
            raise ValueError("OIDC_ALGORITHMS must name at least one algorithm")

    def _check_image_store(self) -> None:
        if self.upload_bytes_in_flight < self.image_max_bytes:
            raise ValueError("UPLOAD_BYTES_IN_FLIGHT must be at least IMAGE_MAX_BYTES, or no large image gets in")
        if self.decode_memory_mib * MIB < 3 * self.image_max_bytes:
            raise ValueError(
                "DECODE_MEMORY_MIB must be at least three times IMAGE_MAX_BYTES, or a large image is not read"
            )
        if self.image_store_url and not BUCKET_URL.fullmatch(self.image_store_url):
            raise ValueError("IMAGE_STORE_URL must be s3://bucket/prefix")
        for name in ("s3_endpoint_url", "s3_public_url"):
            if (url := getattr(self, name)) and not ENDPOINT_URL.fullmatch(url):
                raise ValueError(f"{name.upper()} must be http(s)://host[:port]")
        if bool(self.s3_access_key_id.get_secret_value()) != bool(self.s3_secret_access_key.get_secret_value()):
            raise ValueError("S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY belong together")

    @property
    def upload_bytes_per_user(self) -> int:
        """What one user may have of UPLOAD_BYTES_IN_FLIGHT: half of it, and at least room for the largest body."""
        largest = max(self.image_max_bytes, self.batch_max_bytes) + 2 * MIB
        return min(self.upload_bytes_in_flight, max(self.upload_bytes_in_flight // 2, largest))

    @property
    def role_quotas(self) -> dict[str, int]:
        """QUOTA_SUBMITS_PER_DAY_ROLES as a table."""
        pairs = (pair.rpartition("=") for pair in self.quota_submits_per_day_roles)
        return {role: int(number) for role, _, number in pairs}

    def issuer_rule(self, issuer: str) -> IssuerRule:
        """How this issuer's tokens are judged: its own rule where there is one, with OIDC_AUDIENCE filled in."""
        rule = self.oidc_issuer_rules.get(issuer, IssuerRule())
        return rule if rule.audience else rule.model_copy(update={"audience": self.oidc_audience})

    def require_database(self) -> None:
        """Raises ValueError in prod without DATABASE_URL. For gateways: models and scaling have no use for it, and
        where images are decoded it is better not known."""
        if self.environment == "prod" and not self.database_url.get_secret_value():
            raise ValueError("ENVIRONMENT=prod refuses a gateway without DATABASE_URL")

    def production_faults(self) -> list[str]:
        """What `prod` refuses of these values; each fault begins with the name of its setting."""
        refused = [fault for issuer in self.oidc_issuers for fault in _issuer_faults(issuer)]
        if not self.redis_url.get_secret_value():
            refused.append("REDIS_URL must be set")
        if not all(self.issuer_rule(issuer).audience for issuer in self.oidc_issuers):
            refused.append("OIDC_AUDIENCE must be set")
        if self.model_source == "demo":
            refused.append("MODEL_SOURCE=demo is a stand-in; name the real model")
        elif not COMMIT.fullmatch(self.model_revision):
            refused.append("MODEL_REVISION must be a commit of 40 hex digits")
        if self.image_url_private_hosts:
            refused.append("IMAGE_URL_PRIVATE_HOSTS must be empty")
        if self.webhook_private_hosts:
            refused.append("WEBHOOK_PRIVATE_HOSTS must be empty")
        return refused + self._weak_values()

    def _weak_values(self) -> list[str]:
        """Placeholders and secrets that can be guessed or overheard."""
        refused = []
        for name in ("redis_url", "database_url", "metrics_token", "s3_secret_access_key", "url_signing_key"):
            if PLACEHOLDER.search(getattr(self, name).get_secret_value()):
                refused.append(f"{name.upper()} holds a placeholder")
        if any(map(PLACEHOLDER.search, self.oidc_audience)):
            refused.append("OIDC_AUDIENCE holds a placeholder")
        for issuer, rule in self.oidc_issuer_rules.items():
            if any(map(PLACEHOLDER.search, rule.audience)):
                refused.append(f"OIDC_ISSUER_RULES: {issuer}: audience holds a placeholder")
        refused += _store_faults("REDIS_URL", self.redis_url.get_secret_value(), "rediss://")
        refused += _store_faults("DATABASE_URL", self.database_url.get_secret_value(), "sslmode=verify-full")
        if 0 < len(self.metrics_token.get_secret_value()) < SECRET_MIN_CHARACTERS:
            refused.append(f"METRICS_TOKEN is shorter than {SECRET_MIN_CHARACTERS} characters")
        return refused


def _store_faults(name: str, url: str, encrypted: str) -> list[str]:
    """A password that can be guessed; a way out of the cluster that others can read, or answer in the store's place."""
    faults, parts = [], urlsplit(url)
    host = parts.hostname or ""
    if url and len(unquote(parts.password or "")) < SECRET_MIN_CHARACTERS:
        faults.append(f"{name} has a password of less than {SECRET_MIN_CHARACTERS} characters")
    if "." in host and not host.endswith(CLUSTER_NAMES) and encrypted not in url:
        faults.append(f"{name} leads out of the cluster without {encrypted}")
    return faults


def _issuer_faults(issuer: str) -> list[str]:
    faults, parts = [], urlsplit(issuer)
    host = parts.hostname or ""
    if parts.scheme != "https" or host in ("", "localhost", "127.0.0.1", "::1"):
        faults.append(f"OIDC_ISSUERS: {issuer} is not a public https issuer")
    if PLACEHOLDER.search(issuer):
        faults.append(f"OIDC_ISSUERS: {issuer} is a placeholder")
    return faults


@lru_cache(maxsize=1)
def read_settings() -> Settings:
    """The process's settings, read once."""
    secrets = os.environ.get("SECRETS_DIR")
    return Settings(_secrets_dir=secrets)  # type: ignore[call-arg]
