"""Small image files that many tests write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def striped_images(labels: np.ndarray, size: int, channels: int, seed: int) -> np.ndarray:
    """Noisy images whose stripes tell their class, uint8 [N, size, size(, channels)]."""
    draws = np.random.default_rng(seed)
    columns = np.arange(size)
    images = draws.integers(0, 90, (len(labels), size, size, channels))
    for i, label in enumerate(labels):
        stripe = 120 * (np.sin(columns * (label + 1) * 0.7) > 0)
        images[i] += stripe[None, :, None]
    images = images.astype(np.uint8)
    return images[..., 0] if channels == 1 else images


def write_npz(path: Path, counts, *, size=8, channels=3, test_each=4, seed=0, **extra) -> Path:
    """A MedMNIST-style file with ``counts`` training images a class."""
    labels = np.concatenate([np.full(n, c) for c, n in enumerate(counts)])
    test_labels = np.repeat(np.arange(len(counts)), test_each)
    np.savez(
        path,
        **{
            "train_images": striped_images(labels, size, channels, seed),
            "train_labels": labels.astype(np.uint8),
            "test_images": striped_images(test_labels, size, channels, seed + 1),
            "test_labels": test_labels.astype(np.uint8),
            **extra,
        },
    )
    return path


def write_png(
    path: Path,
    pixels: np.ndarray,
    *,
    before: Sequence[tuple[bytes, bytes]] = (),
    after: Sequence[tuple[bytes, bytes]] = (),
) -> Path:
    """A PNG of 8 or 16 bits a channel, [H, W, C], as other programs write it.

    Chunks (kind, content) stand ``before`` or ``after`` its pixels.
    """

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    height, width, channels = pixels.shape
    bits = 8 * pixels.dtype.itemsize
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in pixels)
    chunks = [(b"IHDR", head), *before, (b"IDAT", zlib.compress(rows)), *after, (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*entry) for entry in chunks))
    return path
