"""What a page of a run would send, made from the answers that were recorded with it."""

import base64
from typing import Any

from edgedistill.serve.offer import Offer

CHROME = (
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Mobile Safari/537.36"
)


def upload_of(offer: Offer, device: str = "0123456789abcdef" * 2, **changes: Any) -> dict[str, Any]:
    """Return a whole upload, its answers the recorded ones."""
    process = {
        "latency_ns": [200_000.0 + 1000 * (i % 7) for i in range(60)], "warmup_ns": [300_000.0] * 50, "wall_ns": 1.3e7,
        "lead_ns": [300_000.0, 200_000.0, 250_000.0],
        "bursts": [{"round": 0, "n": 40, "lead_n": 1}, {"round": 2, "n": 20, "lead_n": 2}],
        "load_ns": 1e7, "first_inference_ns": 9e5, "steady": True, "threads": 1, "loops": 1,
    }  # fmt: skip
    answers = {
        block.name: offer.requests[block.offset : block.offset + block.bytes]
        for block in offer.summary.requests.outputs
    }
    return {
        "schema": "edgedistill.browser/2", "model": offer.summary.key, "threads": 1,
        "device": {
            "id": device, "name": "Pixel 8", "platform": "Android 14", "arch": "not told", "browser": "Chrome 156",
            "cores": 8, "memory_bytes": None,
        },
        "browser": {
            "provider": "wasm", "user_agent": CHROME, "secure": True, "isolated": True, "shared_memory": True,
            "timer_ns": 5000.0, "loops": 1, "heap_bytes": 1 << 24, "gpu": None, "hidden": False,
        },
        "processes": [process] * 3, "duet": {"id": "ab" * 16, "ratios": {}}, "alone": None,
        "outputs": {name: base64.b64encode(content).decode() for name, content in answers.items()},
        "soak": None,
    } | changes  # fmt: skip
