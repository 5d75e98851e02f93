"""Random changes of files, with the checksums and lengths around them put right again."""

import io
import json
import struct
import zipfile
import zlib

import numpy as np

NUMBERS = (0, 1, 2, 7, 63, 64, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
TOKENS = (
    *(
        b"\0",
        b"\n",
        b"\r\n",
        b"..",
        b"../x",
        b"/",
        b"\\",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
    ),
    *(b"[", b"{", b'{"a":', b'"', b",", b";", b"NaN", b"1e999", b"-1", b"99999999999999999999"),
    *(b"<a>", b"</a>", b"<!ENTITY a 'b'>", b"<!--", b"<object>", b'encoding="utf-16"', b"null"),
    *(b"(", b")", b"t", b"\x85", b"\x86", b"q\0", b"h\0", b"Q", b"R", b"b", b"}", b"]", b"s", b"e"),
    *(b"I1\n", b"\x8a\x01\x7f", b"K\x01", b"X\x01\0\0\0a", b"F1\n", b"'", b"metadata", b"classes"),
)
ROUNDS = 5


def changed(reader, rng: np.random.Generator) -> bytes:
    """One of a reader's seeds, changed."""
    content = reader.seeds[rng.integers(len(reader.seeds))]
    if rng.random() < 0.8 and reader.kind in _INSIDE:
        return _INSIDE[reader.kind](content, rng)
    return _anywhere(content, rng, reader.seeds)


def _anywhere(content: bytes, rng: np.random.Generator, others=(b"",)) -> bytes:
    data = bytearray(content)
    for _ in range(rng.integers(1, ROUNDS + 1)):
        at = int(rng.integers(len(data) + 1))
        length = int(min(rng.geometric(0.1), len(data) - at))
        match int(rng.integers(8)):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.integers(8)
            case 1 if at < len(data):
                data[at] = NUMBERS[rng.integers(len(NUMBERS))] % 256
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length] * int(2 ** rng.integers(0, 11))
            case 4:
                token = TOKENS[rng.integers(len(TOKENS))]
                data[at:at] = token * int(2 ** max(0, rng.integers(-8, 15)))
            case 5:
                number = NUMBERS[rng.integers(len(NUMBERS))]
                form = ("<I", ">I", "<H", ">H", "<Q")[rng.integers(5)]
                packed = struct.pack(form, number % 256 ** struct.calcsize(form))
                data[at : at + len(packed)] = packed
            case 6:
                other = others[rng.integers(len(others))]
                start = int(rng.integers(len(other) + 1))
                data[at : at + length] = other[start : start + int(rng.geometric(0.02))]
            case 7 if rng.random() < 0.2:
                del data[at:]
    return bytes(data[: 2**20])


def _in_zip(content: bytes, rng: np.random.Generator) -> bytes:
    """Changes a record, or a name, of an archive that is sound itself."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        records = [(info.filename, old.read(info)) for info in old.infolist()]
        small = [k for k, (_, data) in enumerate(records) if len(data) < 2**14] or [0]
        k = small[rng.integers(len(small))]
        name, data = records[k]
        if rng.random() < 0.1:
            name = _anywhere(name.encode(), rng).decode("latin-1")[:30_000]  # zip takes no more
            records[k] = (name or "x", data)
        else:
            records[k] = (name, _anywhere(data, rng))
        for name, data in records:
            packed = zipfile.ZIP_DEFLATED if rng.random() < 0.02 else zipfile.ZIP_STORED
            new.writestr(zipfile.ZipInfo(name), data, packed)
    return out.getvalue()


def _in_header(content: bytes, rng: np.random.Generator) -> bytes:
    """Changes the JSON at the start of a `.safetensors` file, whose length is put right."""
    (length,) = struct.unpack_from("<Q", content)
    header = content[8 : 8 + length]
    if rng.random() < 0.5:
        values = json.loads(header)
        name = list(values)[rng.integers(len(values))]
        odd = (None, [], {}, "F64", -1, 2**63, [2**40], [0, 2**62], [[1]], "[" * 2000)
        if isinstance(values[name], dict) and values[name]:
            field = list(values[name])[rng.integers(len(values[name]))]
            values[name][field] = odd[rng.integers(len(odd))]
        else:
            values[name] = odd[rng.integers(len(odd))]
        header = json.dumps(values).encode()
    else:
        header = _anywhere(header, rng)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def _in_chunks(content: bytes, rng: np.random.Generator) -> bytes:
    """Changes the content of a PNG's chunk; other pictures anywhere."""
    if not content.startswith(b"\x89PNG"):
        return _anywhere(content, rng)
    chunks, at = [], 8
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    k = rng.integers(len(chunks))
    name, data = chunks[k]
    if name == b"IDAT" and rng.random() < 0.5:
        chunks[k] = (name, zlib.compress(_anywhere(zlib.decompress(data), rng)))
    else:
        chunks[k] = (name, _anywhere(data, rng))
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    return content[:8] + b"".join(parts)


_INSIDE = {"zip": _in_zip, "safetensors": _in_header, "picture": _in_chunks}
