"""Uploads to S3 on condition that the object there is still a certain one.

PyArrow's client sends no conditions (apache/arrow#44281), boto3 does, where it is installed: Airflow's provider for
Amazon brings it. Where s3fs knows the store, of an Airflow connection, it sends the same requests.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from airflow_mullama.errors import OutputChangedError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.staging.s3_client import s3_client
from airflow_mullama.storage.staging.versions import fsspec_filesystem_of

log = logging.getLogger(__name__)

ConditionalPut = Callable[[str, str | None], bool]

# A larger file goes up in parts, each of which is sent again by itself.
PART_BYTES = 64 << 20
MOST_PARTS = 9_000  # S3 takes 10,000
CONTENT_TYPE = "application/octet-stream"
CONFLICT_TRIES = 5
CONDITION_FAILED, CONFLICT, NOT_IMPLEMENTED = 412, 409, 501
# "NoSuchUpload": it was completed and the answer was lost, or whoever published meanwhile aborted it.
ANOTHER_OBJECT = ("PreconditionFailed", "NoSuchKey", "NoSuchUpload")


def conditional_put(target: Location) -> ConditionalPut | None:
    """What uploads a file to a place on condition; ``None`` where that cannot be done.

    What is returned takes the file's path and the ETag of the object that it may replace, or ``None`` if there may be
    none. It returns whether it was done, which it was not if the store takes no conditions, and raises
    :class:`~airflow_mullama.errors.OutputChangedError` if there is another object, or none.
    """
    if (filesystem := fsspec_filesystem_of(target)) is not None:
        if "s3" not in filesystem.protocol or not hasattr(filesystem, "call_s3"):
            return None
        return functools.partial(_put, _S3fsClient(filesystem), target)
    client = s3_client(target.filesystem)
    return None if client is None else functools.partial(_put, client, target)


class _S3fsClient:
    """Sends the requests of boto3's client through a filesystem of s3fs."""

    def __init__(self, filesystem: Any) -> None:
        self._filesystem = filesystem

    def __getattr__(self, name: str) -> Any:
        def send(**arguments: Any) -> Any:
            try:
                return self._filesystem.call_s3(name, **arguments)
            except OSError as error:
                raise error.__cause__ or error from None  # what the store said stands behind s3fs's words for it
            finally:
                self._filesystem.invalidate_cache(f"{arguments['Bucket']}/{arguments['Key']}")

        return send


def _put(client: Any, target: Location, local_path: str, version: str | None) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = target.path.partition("/")
    place = {"Bucket": bucket, "Key": key}
    condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
    for tries_left in reversed(range(CONFLICT_TRIES)):
        try:
            _send(client, place, condition, local_path)
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            code = error.response.get("Error", {}).get("Code")
            if status == CONFLICT and tries_left:  # another request was about the same object at the same moment
                continue
            if status in (CONDITION_FAILED, CONFLICT) or code in ANOTHER_OBJECT:
                raise OutputChangedError(f"Another object lies at {target.url!r} by now, or none.") from error
            if status == NOT_IMPLEMENTED:
                log.info("%s takes no conditions (%s): see docs/fencing.md", target.url, error)
                return False
            raise OSError(str(error)) from error
        except BotoCoreError as error:
            raise OSError(str(error)) from error
        else:
            break
    return True


def _send(client: Any, place: Mapping[str, str], condition: Mapping[str, str], local_path: str) -> None:
    size = os.path.getsize(local_path)
    with open(local_path, "rb") as source:
        if size <= PART_BYTES:
            client.put_object(Body=source.read(), ContentType=CONTENT_TYPE, **place, **condition)
            return
        upload = client.create_multipart_upload(ContentType=CONTENT_TYPE, **place)
        place = {**place, "UploadId": upload["UploadId"]}
        try:
            parts = []
            for number in itertools.count(1):
                part = source.read(max(PART_BYTES, -(-size // MOST_PARTS)))
                if not part:
                    break
                sent = client.upload_part(Body=part, PartNumber=number, **place)
                parts.append({"PartNumber": number, "ETag": sent["ETag"]})
            client.complete_multipart_upload(MultipartUpload={"Parts": parts}, **place, **condition)
        except BaseException:
            _abort(client, place)
            raise


def _abort(client: Any, place: Mapping[str, str]) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client.abort_multipart_upload(**place)
    except (BotoCoreError, ClientError) as error:
        log.warning("the upload to %s could not be taken back: %s", place["Key"], error)
