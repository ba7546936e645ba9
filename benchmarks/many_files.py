"""Detect on a folder of 2,000 files of which 200 are damaged: what is found, named, and needed.

    python benchmarks/many_files.py PHOTOS WEIGHTS --work runs/many \
        --out results/benchmarks/many_files.json

PHOTOS are sound photographs, 1,800 at least. Each damaged file is one of them spoilt in one of
fifteen ways. The memory of `spp-detect detect` is read while it runs.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timing import write_result

from data import find_photographs
from spp_detect.report.journal import NAME as JOURNAL

SOUND, DAMAGED = 1800, 200
MODEL = "voc2007_tuned"
MOMENT = 5.0  # seconds from one reading of the memory to the next


def _encode(content: bytes, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").save(stream, kind)
    return stream.getvalue()


def _claim_sides(content: bytes) -> bytes:
    """A PNG that says it is 60,000 by 60,000 pixels, its checksum in order."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def _spoil_header(content: bytes) -> bytes:
    """A PNG whose header does not agree with its checksum."""
    return content[:20] + bytes([content[20] ^ 1]) + content[21:]


# Of a sound JPEG's bytes: the suffix of the spoilt file, and its bytes; None is a link to nothing.
WAYS: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "empty": ("jpg", lambda content: b""),
    "its first half": ("jpg", lambda content: content[: len(content) // 2]),
    "its first 20 bytes, then zeros": ("jpg", lambda content: content[:20] + bytes(5000)),
    "backwards": ("jpg", lambda content: content[::-1]),
    "text": ("jpg", lambda content: b"text and no picture"),
    "a page": ("jpg", lambda content: b"<!DOCTYPE html><title>404</title>"),
    "noise": ("jpg", lambda content: np.random.default_rng(0).bytes(4000)),
    "PNG, its first half": ("png", lambda content: _halve(_encode(content, "png"))),
    "PNG, one bit of its header": ("png", lambda content: _spoil_header(_encode(content, "png"))),
    "PNG of 60,000 by 60,000": ("png", lambda content: _claim_sides(_encode(content, "png"))),
    "WebP, its first half": ("webp", lambda content: _halve(_encode(content, "webp"))),
    "BMP, its first half": ("bmp", lambda content: _halve(_encode(content, "bmp"))),
    "TIFF, its first half": ("tif", lambda content: _halve(_encode(content, "tiff"))),
    "GIF, its first 100 bytes": ("gif", lambda content: _encode(content, "gif")[:100]),
    "a link to nothing": ("jpg", lambda content: None),
}


def _halve(content: bytes) -> bytes:
    return content[: len(content) // 2]


def make_folder(photographs: list[Path], folder: Path) -> dict[str, str]:
    """Make the folder: the way in which each damaged file, by its name, is damaged."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in photographs[:SOUND]:
        shutil.copy(path, folder)
    damaged = {}
    for i in range(DAMAGED):
        way = list(WAYS)[i % len(WAYS)]
        suffix, spoil = WAYS[way]
        path = folder / f"{photographs[i * SOUND // DAMAGED].stem}_damaged.{suffix}"
        content = spoil(photographs[i].read_bytes())
        if content is None:
            path.symlink_to(folder / "nothing")
        else:
            path.write_bytes(content)
        damaged[path.name] = way
    return damaged


def watch_memory(process: subprocess.Popen[bytes], journal: Path) -> list[dict[str, float]]:
    """Read the process's resident memory until it ends, beside the photographs that are done."""
    readings = []
    while process.poll() is None:
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        done = journal.read_bytes().count(b"\n") - 1 if journal.is_file() else 0
        memory = round(pages * os.sysconf("SC_PAGE_SIZE") / 1e9, 3)
        readings.append({"photographs": done, "GB": memory})
        time.sleep(MOMENT)
    return readings


def detect(folder: Path, weights: str, out: Path) -> dict[str, Any]:
    """Run `detect` as one would: what it says, leaves and needs."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "spp_detect", "detect", str(folder), "--model", MODEL]
    start = time.perf_counter()
    with (folder.parent / "errors.txt").open("wb") as errors:
        process = subprocess.Popen(
            [*command, "--weights", weights, "--out", str(out)],
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        memory = watch_memory(process, out / JOURNAL)
        told = process.communicate()[0].decode()
    return {
        "status": process.returncode,
        "told": told.strip().replace(str(out), "OUT"),
        "seconds": round(time.perf_counter() - start, 1),
        "memory": memory,
    }


def count(folder: Path, out: Path, damaged: dict[str, str]) -> dict[str, Any]:
    """Count what is accounted for, and how."""
    errors = (folder.parent / "errors.txt").read_text(errors="replace").splitlines()
    named = {line.partition("skipped: ")[2] for line in errors if "skipped: " in line}
    with (out / "photographs.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["photograph"]: row["error"] for row in csv.DictReader(file)}
    failed = {name for name, error in rows.items() if error}
    return {
        "accounted for": len(rows),
        "failed": len(failed),
        "failed but sound": sorted(failed - damaged.keys()),
        "damaged but read": sorted(f"{n}: {damaged[n]}" for n in damaged.keys() - failed),
        "named": len(named),
        "tracebacks": sum("Traceback" in line for line in errors),
        "an error of each way": {
            way: next(rows[name] for name in damaged if damaged[name] == way and name in rows)
            for way in WAYS
        },
    }


def main() -> None:
    """Make the folder, detect, count, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    photographs = find_photographs(arguments.photographs)
    if len(photographs) < SOUND:
        parser.error(f"{arguments.photographs}: {len(photographs)} photographs; expected {SOUND}")
    folder, out = arguments.work / "photos", arguments.work / "found"
    damaged = make_folder(photographs, folder)
    run = detect(folder, arguments.weights, out)
    counted = count(folder, out, damaged)
    write_result(arguments.out, {"files": SOUND + DAMAGED, "model": MODEL} | run | counted)


if __name__ == "__main__":
    main()
