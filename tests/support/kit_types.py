"""For mypy only (see .ci/types): the engine.py of the folder that is checked is what the harness asks of a kit."""

import engine
import kit

ENGINE: kit.ProfilingModule = engine
