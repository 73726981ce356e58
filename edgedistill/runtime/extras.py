"""The optional packages: which extra of edgedistill installs each, and the sentence for one that is missing."""

from __future__ import annotations

from typing import Final

from edgedistill.errors import ConfigError

EXTRAS: Final = {
    "accelerate": "train", "huggingface_hub": "train", "onnxscript": "train", "sklearn": "train", "torch": "train", "torch_pruning": "train",
    "openvino": "openvino", "asyncssh": "ssh", "aiohttp": "serve", "cryptography": "serve", "segno": "serve",
    "tokenizers": "text", "pyarrow": "parquet", "timm": "timm",
}  # fmt: skip
"""The extra that installs each package, by the name that Python imports."""


def missing_package(error: ModuleNotFoundError) -> ConfigError | None:
    """Return the error for a package of an extra that is not installed; None if the missing module is of no extra."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return None
    return ConfigError(
        f"this command needs the package {package}, which is not installed; run: pip install 'edgedistill[{extra}]'"
    )
