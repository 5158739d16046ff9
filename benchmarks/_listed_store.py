"""A store that can do nothing but be listed, as S3 is: a hundred thousand objects without any content.

``python _listed_store.py OBJECTS PARTITIONS`` prints its port. The S3 API server of the tests makes a page of a
thousand keys in a second or two, and would hide what is measured.
"""

from __future__ import annotations

import bisect
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

BUCKET = "lake"
PAGE = 1000
TIME = "2026-01-31T00:00:00.000Z"


class Listing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    keys: list[str]

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        place = bisect.bisect_right(self.keys, query.get("continuation-token", prefix))
        if "continuation-token" not in query:
            place = bisect.bisect_left(self.keys, prefix)
        found, most = [], int(query.get("max-keys", PAGE))
        while place < len(self.keys) and self.keys[place].startswith(prefix) and len(found) < most:
            below = self.keys[place][len(prefix) :]
            last = self.keys[place]
            if delimiter and delimiter in below:
                folder = prefix + below[: below.index(delimiter) + 1]
                found.append(f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>")
                last = f"{folder}\U0010ffff"
            else:
                found.append(
                    f"<Contents><Key>{last}</Key><LastModified>{TIME}</LastModified><ETag>&quot;0&quot;</ETag>"
                    "<Size>1000000</Size><StorageClass>STANDARD</StorageClass></Contents>"
                )
            place = bisect.bisect_right(self.keys, last)
        is_cut = place < len(self.keys) and self.keys[place].startswith(prefix)
        further = f"<NextContinuationToken>{last}</NextContinuationToken>" if is_cut else ""
        answer = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{prefix}</Prefix><KeyCount>{len(found)}</KeyCount><MaxKeys>{most}</MaxKeys>"
            f"<IsTruncated>{str(is_cut).lower()}</IsTruncated>{further}{''.join(found)}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: object) -> None:
        pass


def main() -> None:
    objects, partitions = int(sys.argv[1]), int(sys.argv[2])
    Listing.keys = [
        f"tickets/ds={number * partitions // objects:05d}/part-{number:06d}.parquet" for number in range(objects)
    ]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Listing)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
