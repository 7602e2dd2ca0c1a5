"""How an object store is reached: the options of its protocol, and what its libraries raise.

Light: s3fs itself is imported when a store is opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Encryption = Literal["AES256", "aws:kms"]
ENCRYPTIONS: tuple[Encryption, ...] = ("AES256", "aws:kms")

_ATTEMPTS = 3
"""Of one call, by botocore; s3fs makes up to five of those when a connection breaks."""

_CONNECT_SECONDS = 5
_READ_SECONDS = 60
_BLOCK_BYTES = 8 * 2**20
_LIBRARIES = frozenset({"aiobotocore", "aiohttp", "botocore", "fsspec", "s3fs", "urllib3"})


@dataclass(frozen=True, slots=True)
class S3Options:
    """``path_style`` (bucket in the path, not in the host's name) None: with an endpoint of one's
    own. ``encryption`` is the server's; ``kms_key_id`` goes with ``aws:kms``. Credentials are not
    here: they come from where the AWS tools look for them. ``read_seconds`` is how long a server
    may say nothing.
    """

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool | None = None
    encryption: Encryption | None = None
    kms_key_id: str | None = None
    read_seconds: float = _READ_SECONDS
    attempts: int = _ATTEMPTS

    def for_s3fs(self) -> dict[str, Any]:
        """The options as s3fs takes them."""
        path_style = self.path_style if self.path_style is not None else bool(self.endpoint_url)
        config: dict[str, Any] = {
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": self.read_seconds,
            "retries": {"max_attempts": self.attempts, "mode": "standard"},
        }
        if path_style:
            config["s3"] = {"addressing_style": "path"}
        if self.endpoint_url:
            # Stores other than Amazon's do not all know the checksums that botocore adds of itself.
            config["request_checksum_calculation"] = "when_required"
            config["response_checksum_validation"] = "when_required"
        options: dict[str, Any] = {
            "config_kwargs": config,
            # Whether a file is there is asked of the store each time, never of an old listing.
            "use_listings_cache": False,
            # What a handle holds in memory, and a part of an upload; the default is 50 MB.
            "default_block_size": _BLOCK_BYTES,
        }
        if self.endpoint_url:
            options["endpoint_url"] = self.endpoint_url
        if self.region:
            options["client_kwargs"] = {"region_name": self.region}
        additional = {"ServerSideEncryption": self.encryption, "SSEKMSKeyId": self.kms_key_id}
        if self.encryption:
            options["s3_additional_kwargs"] = {k: v for k, v in additional.items() if v}
        return options


def raised_by_store(error: Exception) -> Exception | None:
    """What the libraries that talk to an object store met, None when ``error`` is not theirs.

    They raise some of their own that are no OSError (no credentials, no such host, a broken body),
    and s3fs stumbles over a read that timed out (an IndexError while it looks at the TimeoutError).
    """
    if type(error).__module__.partition(".")[0] in _LIBRARIES:
        return error
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    module = "" if place is None else str(place.tb_frame.f_globals.get("__name__", ""))
    if module.partition(".")[0] not in _LIBRARIES:
        return None
    met = error.__context__
    return met if isinstance(met, OSError) else error
