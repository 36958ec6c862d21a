"""What the image adds to its base, as the engine counts it."""

import subprocess

from bench.report import Figure

IMAGE, BASE = "astromesh:latest", "python:3.13-slim"


def measure() -> Figure:
    name = f"size of {IMAGE} over {BASE}"
    try:
        image, base = _size_mb(IMAGE), _size_mb(BASE)
    except (OSError, subprocess.SubprocessError, ValueError):
        return Figure(name, f"not measured: no Docker engine here that has {IMAGE} and {BASE}")
    return Figure(name, f"{image - base:.1f} MB ({image:.0f} MB in all)", f"base {base:.0f} MB", f"{image / base:.2f}")


def _size_mb(image: str) -> float:
    command = ("docker", "image", "inspect", "--format", "{{.Size}}", image)
    return int(subprocess.run(command, check=True, capture_output=True, timeout=20).stdout) / 1e6
