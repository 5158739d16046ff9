"""Uploads in parts that killed attempts began and never ended: no listing shows them, and a store charges for them.

Only those towards one output and its stage are looked at, and only where boto3 is installed, as PyArrow cannot ask for
them; for all else the bucket has lifecycle rules (docs/object-storage.md).
"""

from __future__ import annotations

import datetime
import email.utils
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.staging.s3_client import s3_client

log = logging.getLogger(__name__)

# No attempt takes longer to upload: it gives up an hour after its last row.
DEAD_AFTER = datetime.timedelta(hours=2)


class DeadUploads:
    """The uploads that were there when an attempt began.

    Args:
        output: of the partition.
        stage: the folder in which its attempts keep what is not published.
    """

    def __init__(self, output: Location, stage: Location) -> None:
        self._output = output
        self._stage = stage
        self._left: list[Mapping[str, Any]] = []

    def look(self) -> None:
        """Find them, and abort those that are too old to be of an attempt that still runs. Nothing is raised."""
        client = s3_client(self._output.filesystem)
        if client is None:
            return
        try:
            for upload, age in self._uploads(client):
                if age > DEAD_AFTER:
                    self._abort(client, upload)
                else:
                    self._left.append(upload)
        except Exception as error:  # noqa: BLE001 - boto3's many; what is left is untidy, never wrong
            log.info("uploads that were never ended cannot be looked for at %s: %s", self._output.url, error)

    def abort_rest(self) -> None:
        """Abort what is left of them: the output is published, and whoever is still at it is too late."""
        client = s3_client(self._output.filesystem) if self._left else None
        while client is not None and self._left:
            try:
                self._abort(client, self._left.pop())
            except Exception as error:  # noqa: BLE001 - as above
                log.info("an upload that was never ended cannot be aborted at %s: %s", self._output.url, error)

    def _uploads(self, client: Any) -> Iterator[tuple[Mapping[str, Any], datetime.timedelta]]:
        bucket, _, output = self._output.path.partition("/")
        stage = self._stage.path.partition("/")[2] + "/"
        for prefix in (output, stage):
            for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
                now = email.utils.parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
                for found in page.get("Uploads", ()):
                    if found["Key"] == output or found["Key"].startswith(stage):
                        upload = {"Bucket": bucket, "Key": found["Key"], "UploadId": found["UploadId"]}
                        yield upload, now - found["Initiated"]

    def _abort(self, client: Any, upload: Mapping[str, Any]) -> None:
        client.abort_multipart_upload(**upload)
        log.info("aborted an upload to s3://%s/%s, which a killed attempt had begun", upload["Bucket"], upload["Key"])
