"""Reads the files that TensorBoard reads."""

import struct

from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c


def events(path):
    """The events of a file of TFRecords, whose checksums have to be right."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        data = content[12 : 12 + length]
        for part, checksum in ((content[:8], content[8:12]), (data, content[12 + length :][:4])):
            assert struct.unpack("<I", checksum) == (masked_crc32c(part),)
        yield event_pb2.Event.FromString(data)
        content = content[16 + length :]
