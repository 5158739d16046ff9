"""boto3's client of a store that PyArrow has opened, for what PyArrow's own does not ask.

It is told of the store what PyArrow was told. boto3 comes with the provider for Amazon, and with the extra ``s3``.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import pyarrow.fs as pafs

# What PyArrow may have been told that boto3 is not told here; empty if it was not.
UNTOLD = ("role_arn", "anonymous", "default_metadata")


def s3_client(filesystem: pafs.FileSystem) -> Any | None:
    """A client; ``None`` for another store, without a new enough boto3, or if that could not be told the same."""
    if filesystem.type_name != "s3":
        return None
    # What the filesystem would be made with again in another process.
    _, (told,) = filesystem.__reduce__()
    if any(told.get(name) for name in UNTOLD) or (told.get("proxy_options") or {}).get("host"):
        return None
    return _client(json.dumps(told, sort_keys=True, default=str))


@functools.lru_cache(maxsize=8)
def _client(told: str) -> Any | None:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        return None
    options = json.loads(told)
    endpoint = options.get("endpoint_override")
    if endpoint and "://" not in endpoint:
        endpoint = f"{options.get('scheme') or 'https'}://{endpoint}"
    path_style = bool(endpoint) and not options.get("force_virtual_addressing")
    try:
        config = Config(
            s3={"addressing_style": "path" if path_style else "auto"},
            retries={"mode": "standard", "total_max_attempts": 5},
            # Checksums behind the content are what stores that only resemble S3 do not know.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
    except TypeError:  # before 1.36
        return None
    return boto3.session.Session().client(
        "s3",
        region_name=options.get("region") or None,
        endpoint_url=endpoint or None,
        verify=options.get("tls_ca_file_path") or None,
        aws_access_key_id=options.get("access_key") or None,
        aws_secret_access_key=options.get("secret_key") or None,
        aws_session_token=options.get("session_token") or None,
        config=config,
    )
