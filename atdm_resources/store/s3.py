"""An object store: the options of its file system, and the errors that its libraries raise.

s3fs itself is imported when a store is opened.
"""

from __future__ import annotations

from typing import Any

from atdm_resources.settings import S3Settings

_CONNECT_SECONDS = 5
_BLOCK_BYTES = 8 * 2**20
_LIBRARIES = frozenset({"aiobotocore", "aiohttp", "botocore", "fsspec", "s3fs", "urllib3"})


def s3fs_options(s3: S3Settings) -> dict[str, Any]:
    """The arguments of ``s3fs.S3FileSystem``."""
    path_style = s3.path_style if s3.path_style is not None else bool(s3.endpoint_url)
    config: dict[str, Any] = {
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": s3.read_seconds,
        "retries": {"max_attempts": s3.attempts, "mode": "standard"},
    }
    if path_style:
        config["s3"] = {"addressing_style": "path"}
    if s3.endpoint_url:
        # botocore adds checksums by itself, and not every store but Amazon's knows them.
        config["request_checksum_calculation"] = "when_required"
        config["response_checksum_validation"] = "when_required"
    options: dict[str, Any] = {
        "config_kwargs": config,
        # Whether a file exists is asked of the store each time, never of an old listing.
        "use_listings_cache": False,
        # The memory of a handle and the size of an upload's part; the default is 50 MB.
        "default_block_size": _BLOCK_BYTES,
    }
    if s3.endpoint_url:
        options["endpoint_url"] = s3.endpoint_url
    if s3.region:
        options["client_kwargs"] = {"region_name": s3.region}
    if s3.encryption:
        options["s3_additional_kwargs"] = {"ServerSideEncryption": s3.encryption}
        if s3.kms_key_id:
            options["s3_additional_kwargs"]["SSEKMSKeyId"] = s3.kms_key_id
    return options


def raised_by_store(error: Exception) -> Exception | None:
    """The cause of an error of the object store's libraries; None for an error of other code.

    Some of their errors are no OSError (no credentials, no such host, a broken body), and s3fs
    raises an IndexError while it handles the TimeoutError of a read.
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
