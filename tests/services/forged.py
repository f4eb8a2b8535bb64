"""Authorization headers that no service may accept, by family; each is made for a running issuer."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm
from jwt.utils import base64url_decode, base64url_encode

from serve_app.gateway.auth import LEEWAY_S, SUBJECT_MAX_CHARACTERS, TOKEN_MAX_BYTES
from serve_app.local.issuer import Issuer

Forge = Callable[[Issuer], bytes]

OURS: Final = "sem-image-classifier"

STRANGER: Final = rsa.generate_private_key(65537, 2048)
STRANGERS_CURVE: Final = ec.generate_private_key(ec.SECP256R1())
STRANGERS_JWK: Final = json.loads(RSAAlgorithm.to_jwk(STRANGER.public_key()))
CURVE_JWK_OF_ANOTHER: Final = {"kty": "oct", "k": "c2VjcmV0"}


def _head(issuer: Issuer, **changes: Any) -> dict[str, Any]:
    """A header as the issuer writes it; a change to None leaves a member out."""
    head = {"alg": "RS256", "typ": "at+jwt", "kid": issuer.keys.current.id, **changes}
    return {name: value for name, value in head.items() if value is not None}


def _claims(issuer: Issuer) -> dict[str, Any]:
    return {"iss": issuer.url, "sub": "eve", "aud": OURS, "exp": int(time.time()) + 600}


def _bytes(part: Any) -> bytes:
    return part if isinstance(part, bytes) else json.dumps(part).encode()


def _join(*parts: Any) -> bytes:
    return b"Bearer " + b".".join(base64url_encode(_bytes(part)) for part in parts)


def _rsa_signed(head: Any, claims: Any, key: rsa.RSAPrivateKey) -> bytes:
    text = base64url_encode(_bytes(head)) + b"." + base64url_encode(_bytes(claims))
    return b"Bearer " + text + b"." + base64url_encode(RSAAlgorithm(RSAAlgorithm.SHA256).sign(text, key))


def by_stranger(issuer: Issuer, **head: Any) -> bytes:
    """Good claims under a stranger's signature."""
    return _rsa_signed(_head(issuer, **head), _claims(issuer), STRANGER)


def raw_head(issuer: Issuer, head: bytes) -> bytes:
    return _rsa_signed(head, _claims(issuer), STRANGER)


def by_issuer(issuer: Issuer, head: Mapping[str, Any] | None = None, **claims: Any) -> bytes:
    """What the issuer has signed, but for another purpose, time or reader."""
    return b"Bearer " + issuer.mint("eve", header=dict(head or {}), **claims).encode()


def raw_claims(issuer: Issuer, changes: bytes) -> bytes:
    """Claims as text, so that they may be what no JSON library of ours would write."""
    claims = json.dumps({name: value for name, value in _claims(issuer).items() if name != "exp"}).encode()
    return _rsa_signed(_head(issuer), claims[:-1] + b", " + changes + b"}", issuer.keys.current.private)  # type: ignore[arg-type]


def unsigned(issuer: Issuer, algorithm: Any, signature: bytes = b"") -> bytes:
    return _join(_head(issuer, alg=algorithm), _claims(issuer), signature)


def by_public_key(issuer: Issuer, algorithm: str, encoding: str) -> bytes:
    """HMAC, keyed with what everybody may read (RFC 8725 section 2.1)."""
    public = issuer.keys.current.private.public_key()
    secret = {
        "pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "jwk": json.dumps(issuer.keys.current.public).encode(),
        "nothing": b"",
    }[encoding]
    text = base64url_encode(_bytes(_head(issuer, alg=algorithm))) + b"." + base64url_encode(_bytes(_claims(issuer)))
    digest = hmac.new(secret, text, getattr(hashlib, algorithm.replace("HS", "sha"))).digest()
    return b"Bearer " + text + b"." + base64url_encode(digest)


def by_algorithm(issuer: Issuer, algorithm: str) -> bytes:
    """The issuer's own key, by an algorithm that is not accepted."""
    head = {"kid": issuer.keys.current.id, "typ": "at+jwt"}
    return b"Bearer " + jwt.encode(_claims(issuer), issuer.keys.current.private, algorithm, head).encode()


def renamed(issuer: Issuer, algorithm: str) -> bytes:
    """The issuer's own RS256 signature under the name of another algorithm."""
    head = _head(issuer, alg=algorithm)
    return _rsa_signed(head, _claims(issuer), issuer.keys.current.private)  # type: ignore[arg-type]


def by_edwards(issuer: Issuer, algorithm: str, key: ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) -> bytes:
    """A stranger's EdDSA, with the id of the issuer's RSA key."""
    text = base64url_encode(_bytes(_head(issuer, alg=algorithm))) + b"." + base64url_encode(_bytes(_claims(issuer)))
    return b"Bearer " + text + b"." + base64url_encode(key.sign(text))


def by_curve(issuer: Issuer) -> bytes:
    head = {"kid": issuer.keys.current.id, "typ": "at+jwt"}
    return b"Bearer " + jwt.encode(_claims(issuer), STRANGERS_CURVE, "ES256", head).encode()


def changed(issuer: Issuer, change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """A good token, changed after it was signed."""
    return b"Bearer " + b".".join(change(issuer.mint("eve").encode().split(b".")))


def _with_claims(parts: list[bytes], **claims: Any) -> list[bytes]:
    return [parts[0], base64url_encode(_bytes({**json.loads(base64url_decode(parts[1])), **claims})), parts[2]]


def _with_head(parts: list[bytes], **head: Any) -> list[bytes]:
    return [base64url_encode(_bytes({**json.loads(base64url_decode(parts[0])), **head})), *parts[1:]]


def plain(_: Issuer, header: bytes) -> bytes:
    return header


def good_token_as(issuer: Issuer, before: bytes, after: bytes = b"") -> bytes:
    """A good token where the scheme, or what stands beside the token, makes it none."""
    return before + issuer.mint("eve").encode() + after


def _all(make: Callable[..., bytes], *cases: Any) -> list[Forge]:
    return [partial(make, **one) if isinstance(one, dict) else partial(_called, make, one) for one in cases]


def _called(make: Callable[..., bytes], argument: Any, issuer: Issuer) -> bytes:
    return make(issuer, argument)


_NOW: Final = int(time.time())
_NOTHING: Final = b"Bearer "

FAMILIES: Final[Mapping[str, list[Forge]]] = {
    "no algorithm": [
        *_all(
            unsigned, "none", "None", "NONE", "nOnE", "", None, ["RS256"], 256, {"algorithm": "none", "signature": b"x"}
        )
    ],
    "a public key as a secret": [
        partial(by_public_key, algorithm=algorithm, encoding=encoding)
        for algorithm in ("HS256", "HS384", "HS512")
        for encoding in ("pem", "der", "jwk", "nothing")
    ],
    "another algorithm": [
        *_all(by_algorithm, "RS384", "RS512", "PS256", "PS384", "PS512"),
        by_curve,
        partial(unsigned, algorithm="ES256", signature=b"\0" * 64),
        partial(unsigned, algorithm="ES256", signature=b"\0" * 63 + b"\1"),
        partial(unsigned, algorithm="EdDSA", signature=b"\0" * 64),
        partial(unsigned, algorithm="RS256", signature=b"\0" * 256),
        partial(unsigned, algorithm="RS256"),
    ],
    "an algorithm that is not the key's": [
        *_all(
            renamed,
            *("PS256", "PS384", "PS512", "RS384", "RS512", "ES256", "ES256K", "ES384", "ES512", "ES521"),
            *("EdDSA", "Ed25519", "Ed448", "HS256", "rs256", "RS256 ", "RS256\0", "RS1", "RSA-OAEP", "dir", "ESP256"),
        ),
        *(
            partial(unsigned, algorithm=algorithm, signature=bytes(size))
            for algorithm, size in (("ES256K", 64), ("ES384", 96), ("ES512", 132), ("Ed25519", 64), ("Ed448", 114))
        ),
        partial(by_edwards, algorithm="EdDSA", key=ed25519.Ed25519PrivateKey.generate()),
        partial(by_edwards, algorithm="Ed25519", key=ed25519.Ed25519PrivateKey.generate()),
        partial(by_edwards, algorithm="EdDSA", key=ed448.Ed448PrivateKey.generate()),
        partial(by_edwards, algorithm="Ed448", key=ed448.Ed448PrivateKey.generate()),
    ],
    "a key's id": [
        *(
            partial(by_stranger, kid=kid)
            for kid in (
                *("", "unknown", "../../../../dev/null", "/etc/passwd", "' OR 1=1 --", "\0", "\r\nX: y"),
                *("http://127.0.0.1:9/", "k" * 4000, 0, [], {}, ["a"], True, "é", None),
            )
        ),
        by_stranger,
        partial(by_issuer, head={"kid": "unknown"}),
    ],
    "brings its own key": [
        partial(by_stranger, **{name: value}, **kid)
        for name, value in (
            ("jwk", STRANGERS_JWK),
            ("jwk", CURVE_JWK_OF_ANOTHER),
            ("jku", "http://127.0.0.1:9/jwks"),
            ("jku", "file:///etc/passwd"),
            ("jku", "http://169.254.169.254/"),
            ("x5u", "http://127.0.0.1:9/cert"),
            ("x5c", ["MIIB"]),
            ("x5c", []),
            ("x5t", "AA"),
        )
        for kid in ({}, {"kid": "strangers"})
    ],
    "critical extensions": [
        partial(by_issuer, head={"crit": crit, **more})
        for crit, more in (
            (["exp"], {}),
            (["b64"], {"b64": False}),
            (["unknown"], {"unknown": 1}),
            ([""], {}),
            ("exp", {}),
            ([], {}),
        )
    ],
    "the wrong time": [
        *_all(
            by_issuer,
            *(
                {"exp": exp}
                for exp in (0, -1, "soon", None, [], {}, str(_NOW + 600), (_NOW + 600) * 1000, 10**400, False)
            ),
        ),
        *_all(by_issuer, {"nbf": True}, {"nbf": str(_NOW)}, {"nbf": -(10**400)}),
        lambda issuer: by_issuer(issuer, nbf=int(time.time()) + LEEWAY_S + 5),
        lambda issuer: by_issuer(issuer, exp=int(time.time()) - LEEWAY_S),
        *_all(by_issuer, {"iat": True}, {"iat": []}, {"iat": {}}, {"iat": 10**400}, {"iat": str(_NOW)}),
        *_all(by_issuer, {"nbf": _NOW + 10**60}, {"nbf": "x"}, {"nbf": []}, {"iat": _NOW + 10**60}, {"iat": "x"}),
        *_all(
            raw_claims,
            b'"exp": null',
            b'"exp": NaN',
            b'"exp": Infinity',
            b'"exp": -Infinity',
            b'"exp": 1e400',
            b'"exp": "1e999"',
            b'"exp": true',
            b'"exp": 99999999999, "iat": NaN',
            b'"exp": 99999999999, "iat": null',
            b'"exp": 99999999999, "iat": 1e400',
            b'"exp": 99999999999, "nbf": -Infinity',
            b'"exp": 99999999999, "nbf": null',
        ),
    ],
    "another issuer": [
        *_all(
            by_issuer,
            *({"iss": iss} for iss in (None, "", "http://elsewhere.invalid/default", "https://127.0.0.1")),
            *({"iss": iss} for iss in ("HTTP://LOCALHOST", "\0")),
        ),
        lambda issuer: by_issuer(issuer, iss=issuer.url + "/"),
        lambda issuer: by_issuer(issuer, iss=issuer.url + "#x"),
        lambda issuer: by_issuer(issuer, iss=issuer.url.upper()),
        lambda issuer: raw_claims(issuer, b'"exp": %d, "iss": ["%s"]' % (_NOW + 10**6, issuer.url.encode())),
        lambda issuer: raw_claims(issuer, b'"exp": %d, "iss": 7' % (_NOW + 10**6)),
    ],
    "another audience": [
        *_all(
            by_issuer,
            *(
                {"aud": aud}
                for aud in (None, "", [], "else", ["else", "other"], 7, {OURS: 1}, [7], "SEM-IMAGE-CLASSIFIER")
            ),
            *({"aud": aud} for aud in (f"{OURS}2", "sem", f"api://{OURS}", f"{OURS} else", [OURS, 7], [[OURS]])),
            # A client stands in for an audience that is missing, not for another or an empty one, and only where the
            # token says in a claim that it is an access token.
            {"aud": None, "client_id": OURS},
            {"aud": None, "client_id": OURS, "azp": OURS, "scope": "openid"},
            {"aud": None, "client_id": "portal", "token_use": "access"},
            {"aud": None, "client_id": None, "token_use": "access"},
            {"aud": None, "client_id": [], "token_use": "access"},
            {"aud": None, "azp": "portal", "client_id": OURS, "typ": "Bearer"},
            {"aud": [], "client_id": OURS, "token_use": "access"},
            {"aud": "", "client_id": OURS, "token_use": "access"},
            {"aud": "account", "azp": OURS, "typ": "Bearer"},
            {"aud": "account", "client_id": OURS, "token_use": "access"},
        ),
        lambda issuer: raw_claims(issuer, b'"exp": 99999999999, "aud": null, "token_use": "access", "client_id": "x"'),
    ],
    "another type": [
        *(
            partial(by_issuer, head={"typ": kind})
            for kind in ("id_token", "logout+jwt", "dpop+jwt", "secevent+jwt", "JOSE")
        ),
        *(partial(by_issuer, head={"typ": kind}) for kind in (7, ["at+jwt"], {"at+jwt": 1})),
    ],
    "an ID token": [
        *(  # its audience is the client that it was given to, whatever claim names that client
            partial(by_issuer, head={"typ": typ}, **{"client_id": None, client: OURS}, **marks)
            for typ in ("JWT", None)
            for client in ("azp", "client_id", "cid", "appid")
            for marks in ({"nonce": "n"}, {"at_hash": "h"}, {"c_hash": "h"}, {"at_hash": "h", "nonce": "n", "acr": "1"})
        ),
        *_all(
            by_issuer,
            {"head": {"typ": "JWT"}, "nonce": "n"},
            {"head": {"typ": "JWT"}, "nonce": "n", "client_id": None},
            {"head": {"typ": "JWT"}, "c_hash": "h", "client_id": None},
            {"head": {"typ": "JWT"}, "nonce": "n", "azp": ["portal"]},
            {"head": {"typ": "JWT"}, "at_hash": "h", "azp": 7},
            *(
                {"head": {"typ": None}, "at_hash": "h", "client_id": None, name: value}
                for name, value in (("auth_time", _NOW), ("acr", "1"), ("amr", ["pwd"]), ("sid", "s"), ("nonce", ""))
            ),
            {"head": {"typ": "JWT"}, "nonce": "n", "aud": [OURS], "azp": OURS},
            {"head": {"typ": "JWT"}, "nonce": "n", "aud": [OURS, "else"], "azp": OURS},
            {"head": {"typ": "JWT"}, "nonce": "n", "aud": "portal", "azp": "portal"},
            {"head": {"typ": "JWT"}, "nonce": "n", "at_hash": "h", "aud": "portal", "client_id": None},
            {"token_use": "id"},
            {"token_use": "ID", "scope": "openid"},
            {"head": {"typ": "JWT"}, "token_use": "id", "aud": OURS},
            {"typ": "ID"},
            {"typ": "id", "scope": "openid"},
            {"head": {"typ": "JWT"}, "typ": "ID", "azp": "portal", "at_hash": "h"},
        ),
    ],
    "a token for something else": [
        *(
            partial(by_issuer, head={"typ": head}, typ=typ)
            for head in ("JWT", "at+jwt")
            for typ in ("Refresh", "Offline", "Logout")
        ),
        partial(by_issuer, token_use="refresh"),
    ],
    "nobody's": [
        *_all(
            by_issuer,
            *({"sub": sub} for sub in (None, "", " ", "\t\n", "x" * (SUBJECT_MAX_CHARACTERS + 1))),
        ),
        *(
            partial(raw_claims, changes=b'"exp": 99999999999, "sub": ' + sub)
            for sub in (b"7", b"null", b"[]", b'{"a": 1}', b"true")
        ),
    ],
    "changed after signing": _all(
        changed,
        lambda parts: _with_claims(parts, sub="ada"),
        lambda parts: _with_claims(parts, exp=_NOW + 10**6),
        lambda parts: _with_claims(parts, realm_access={"roles": ["sem-admin"]}),
        lambda parts: _with_head(parts, cty="x"),
        lambda parts: [*parts[:2], parts[2][:-8]],
        lambda parts: [*parts[:2], parts[2][::-1]],
        lambda parts: [*parts[:2], parts[2] + b"AAAA"],
        lambda parts: [*parts[:2], b""],
        lambda parts: [parts[1], parts[0], parts[2]],
    ),
    "no such shape": [
        *_all(
            plain,
            *(
                b"Bearer " + text
                for text in (
                    *(b"a", b"a.b", b"a.b.c", b"a.b.c.d", b".", b"..", b"...", b"....", b"." * 10_000, b"=.=.="),
                    *(b"+/.+/.+/", b"e30.e30.e30", b"e30.e30.", b"bnVsbA.bnVsbA.", b"W10.W10.", b"IiI.IiI."),
                    *(b"MQ.MQ.", b"77u/e30.e30.e30", b"%65%30.e30.e30"),
                )
            ),
        ),
        *_all(
            raw_head,
            b'{"alg":"none","alg":"RS256"}',
            b'{"alg":"RS256","kid":"a","kid":"b"}',
            b"\xff\xfe",
            b"[]",
            b"null",
            b'{"alg":"RS256"',
            b"[" * 5000,
            b'{"alg":"RS256","kid":"\\ud800"}',
        ),
        partial(raw_claims, changes=b'"exp": ' + b"[" * 3000 + b"]" * 3000),
        partial(raw_claims, changes=b'"exp": ' + b"9" * 5000),
    ],
    "too much": [
        partial(by_issuer, padding="x" * TOKEN_MAX_BYTES),
        partial(by_issuer, padding="x" * 4 * TOKEN_MAX_BYTES),
        partial(by_stranger, padding="x" * TOKEN_MAX_BYTES),
        partial(plain, header=b"Bearer " + b"x" * 60_000),
        partial(plain, header=b"Bearer " + b"x" * (TOKEN_MAX_BYTES + 1)),
        partial(plain, header=b"Bearer " + b"x." * TOKEN_MAX_BYTES),
        partial(by_stranger, padding="x" * (TOKEN_MAX_BYTES // 2)),
        partial(by_issuer, groups=["g" * 99] * 1000),
    ],
    "wrapped or encrypted": [
        partial(plain, header=b"Bearer eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..AAAA.AAAA.AAAA"),
        partial(plain, header=b"Bearer eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.AA.AA.AA.AA"),
        lambda issuer: _rsa_signed(_head(issuer, cty="JWT"), issuer.mint("eve").encode(), STRANGER),
        lambda issuer: _join(_head(issuer, zip="DEF"), _claims(issuer), b"x"),
        lambda issuer: (
            b"Bearer " + json.dumps({"payload": issuer.mint("eve").split(".")[1], "signatures": []}).encode()
        ),
    ],
    "another scheme": [
        *_all(plain, b"", b"Bearer", b"Bearer ", b"Bearer    ", b"Basic YTpi", b"Digest x", b"Negotiate YTpi"),
        *(
            partial(good_token_as, before=before)
            for before in (b"", b"Basic ", b"Token ", b"Bearer:", b"Bearer=", b"DPoP ", b"JWT ")
        ),
        partial(good_token_as, before=b"Bearer ", after=b" x"),
        partial(good_token_as, before=b"Bearer ", after=b", Bearer x"),
        partial(good_token_as, before=b'Bearer "', after=b'"'),
    ],
    "odd characters": [
        *(
            partial(plain, header=_NOTHING + text)
            for text in (b"\0", b"\xe9.\xe9.\xe9", "ｅ.ｅ.ｅ".encode(), b"\x7f.\x01.\x02")
        ),
        *(
            partial(good_token_as, before=b"Bearer ", after=after)
            for after in (b"\0", b"\xe2\x80\x8b", b"\xff", b"\t.")
        ),
        partial(good_token_as, before=b"Bearer \xef\xbb\xbf"),
        partial(good_token_as, before=b"Bearer\0"),
    ],
}
