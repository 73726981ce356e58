"""A film that Chromium takes for what a camera sees: YUV4MPEG2, with the colours of BT.601."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

FROM_RGB = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
CAMERA = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
"""Options of Chromium for a camera that needs no permission."""


def camera(film: Path) -> tuple[str, ...]:
    """Return the options of Chromium for a camera that shows a film again and again."""
    return (*CAMERA, f"--use-file-for-fake-video-capture={film}")


def write_film(path: Path, frames: Iterable[np.ndarray], rate: int = 10) -> Path:
    """Write frames, uint8 (H, W, 3) of one size with even sides, as a film."""
    with path.open("wb") as file:
        for number, frame in enumerate(frames):
            if number == 0:
                file.write(f"YUV4MPEG2 W{frame.shape[1]} H{frame.shape[0]} F{rate}:1 Ip A1:1 C420jpeg\n".encode())
            whole = frame @ FROM_RGB.T + [16, 128, 128]
            halves = whole.reshape(frame.shape[0] // 2, 2, frame.shape[1] // 2, 2, 3).mean((1, 3))
            planes = (whole[..., 0], halves[..., 1], halves[..., 2])
            file.write(b"FRAME\n" + b"".join(np.rint(plane).astype(np.uint8).tobytes() for plane in planes))
    return path
