"""gguf.py - writes a GGUF file (version 3) of F32 and Q8_0 tensors. Format: ggml's docs/gguf.md."""
import struct

import numpy as np

U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
ALIGNMENT = 32
TYPE_F32, TYPE_Q8_0 = 0, 8


def text(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(kind, v):
    if kind == STRING:
        return text(v)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], v)


def key(name, v):
    """One key: bool, int, float, str become BOOL, U32, F32, STRING; a list is of str or int."""
    kinds = {bool: BOOL, int: U32, float: F32, str: STRING}
    if isinstance(v, list):
        kind = STRING if isinstance(v[0], str) else I32
        body = struct.pack("<IQ", kind, len(v)) + b"".join(value(kind, x) for x in v)
        return text(name) + struct.pack("<I", ARRAY) + body
    kind = kinds[type(v)]
    return text(name) + struct.pack("<I", kind) + value(kind, v)


def q8_0(x):
    """Blocks of 32: a half-precision scale, and 32 signed bytes rounded half away from zero."""
    blocks = np.ascontiguousarray(x, dtype=np.float32).reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = blocks * inverse
    quants = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)
    out = np.empty((len(blocks), 34), dtype=np.uint8)
    out[:, :2] = scale.astype(np.float16).view(np.uint8).reshape(-1, 2)
    out[:, 2:] = quants.view(np.uint8)
    return out.tobytes()


def write(path, keys, tensors):
    """keys: (name, value); tensors: (name, array, quantised). An array's last axis is ggml's
    first."""
    infos, data = b"", b""
    for name, array, quantised in tensors:
        raw = q8_0(array) if quantised else np.ascontiguousarray(array, dtype="<f4").tobytes()
        infos += text(name) + struct.pack("<I", array.ndim)
        infos += b"".join(struct.pack("<Q", n) for n in reversed(array.shape))
        infos += struct.pack("<IQ", TYPE_Q8_0 if quantised else TYPE_F32, len(data))
        data += raw + bytes(-len(raw) % ALIGNMENT)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    head += b"".join(key(*k) for k in keys) + infos
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % ALIGNMENT) + data)
