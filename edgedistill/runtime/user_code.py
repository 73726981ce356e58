"""Code of the user's, named in a configuration as package.module:function."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from edgedistill.errors import ConfigError


def is_function(text: str) -> bool:
    """Tell package.module:function from a path."""
    module, colon, function = text.partition(":")
    return bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def resolve_function(text: str, folder: Path) -> Any:
    """Import package.module:function; modules beside the configuration are found too."""
    module_name, _, name = text.partition(":")
    module_file(text, folder)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"'{text}': module {module_name} does not import: {error}") from error
    if not hasattr(module, name):
        raise ConfigError(f"'{text}': module {module_name} has no '{name}'")
    return getattr(module, name)


def module_file(text: str, folder: Path) -> Path:
    """Return the source file of package.module:function; modules beside the configuration come first."""
    module_name = text.partition(":")[0]
    if str(folder.resolve()) not in sys.path:
        sys.path.insert(0, str(folder.resolve()))
    try:
        spec = importlib.util.find_spec(module_name)
    except ImportError as error:
        raise ConfigError(f"'{text}': {error}") from None
    if spec is None or spec.origin is None:
        raise ConfigError(f"'{text}': no module '{module_name}' beside the configuration or installed")
    return Path(spec.origin)
