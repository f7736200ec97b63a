"""Files of small collections, for tests."""

import csv
import gzip
import io
import json

MOJIBAKE = "the userâ€™s guide"  # an apostrophe, read as Windows-1252


def written(path, text, bom=False):
    """The file with that text, gzipped if its name says so."""
    data = text.encode("utf-8-sig" if bom else "utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def table(header, rows, separator=","):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator).writerows([header, *rows])
    return text.getvalue()


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def documents(*pairs):
    return [{"docno": docno, "text": text} for docno, text in pairs]
