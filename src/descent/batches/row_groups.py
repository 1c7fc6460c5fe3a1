"""Counts the rows of each row group of a Parquet file, which polars reads but does not expose.

The footer is a struct in Thrift's compact protocol: https://parquet.apache.org/docs/file-format/metadata,
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from pathlib import Path
from typing import Any

ROW_GROUPS, NUM_ROWS = 4, 3  # a field of FileMetaData; one of RowGroup
LIST, SET, STRUCT = 9, 10, 12  # types
TAIL = 8  # bytes: the length of the footer, and the magic number


def row_groups(path: Path) -> list[int]:
    """The number of rows of each row group, in order.

    Raises:
        ValueError: the file is not a readable Parquet file.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL))
        tail = file.read()
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != b"PAR1" or length + TAIL > size:
            raise ValueError("it does not end like a Parquet file")
        file.seek(size - TAIL - length)
        footer = _Compact(file.read(length))
    try:
        return [int(group[NUM_ROWS]) for group in footer.value(STRUCT)[ROW_GROUPS]]
    except (IndexError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("its footer is damaged") from error


class _Compact:
    """Reads values in sequence: structs as dictionaries keyed by field number, strings as their lengths."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def value(self, kind: int) -> Any:
        if kind in (1, 2):  # the type of a boolean field is its value
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            number = self._varint()
            return number >> 1 ^ -(number & 1)
        if kind in (7, 8):
            length = 8 if kind == 7 else self._varint()
            self.at += length
            return length
        if kind in (LIST, SET):
            head = self._byte()
            count, kind = head >> 4, head & 15
            count = self._varint() if count == 15 else count
            return [self._byte() if kind in (1, 2) else self.value(kind) for _ in range(count)]
        if kind == STRUCT:
            return self._struct()
        raise KeyError(kind)  # a map, which footers do not contain

    def _struct(self) -> dict[int, Any]:
        fields, number = dict[int, Any](), 0
        while head := self._byte():
            step = head >> 4
            number = number + step if step else self.value(4)
            fields[number] = self.value(head & 15)
        return fields

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7
