"""The constants of measuring as the page's JavaScript and the runner's C have them: `python -m tests.support.constants` writes both."""

import json

from tests.support.jobs import TARGETS

SOURCE = TARGETS / "harness" / "constants.json"
NOTE = "Made from targets/harness/constants.json by `python -m tests.support.constants`; the meanings are in constants.py there."


def javascript() -> str:
    """Return constants.mjs."""
    tables = json.loads(SOURCE.read_text(encoding="utf-8"))
    lines = [f"export const {name.upper()} = {json.dumps(table)};" for name, table in tables.items()]
    return "\n".join([f"// {NOTE}", "", *lines, ""])


def header() -> str:
    """Return constants.h, which leaves out tables and lists within tables."""
    tables = json.loads(SOURCE.read_text(encoding="utf-8"))
    lines = [
        f"#define {name.upper()}_{key.upper()} {value!r}"
        for name, table in tables.items()
        for key, value in table.items()
        if not isinstance(value, (dict, list))
    ]
    guard = "EDGEDISTILL_CONSTANTS_H"
    return "\n".join([f"/* {NOTE} */", f"#ifndef {guard}", f"#define {guard}", "", *lines, "", "#endif", ""])


MADE = {TARGETS / "web" / "constants.mjs": javascript, TARGETS / "android" / "constants.h": header}

if __name__ == "__main__":
    for path, text in MADE.items():
        path.write_text(text(), encoding="utf-8")
