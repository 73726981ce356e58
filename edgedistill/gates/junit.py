"""Write gate outcomes as JUnit XML, which CI systems display: one test case per gate and candidate.

Elements and attributes follow Apache Ant's schema (JUnit.xsd), whose readers are the strictest. An undecided gate is an
error, because a skipped test would count as passed.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from xml.etree import ElementTree as ET

from edgedistill.compare.comparison import Comparison, GateOutcome

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(comparison: Comparison) -> str:
    """Return the XML, with a test suite for each group."""
    root = ET.Element("testsuites")
    for number, group in enumerate(dict.fromkeys(outcome.group for outcome in comparison.gates)):
        _add_suite(root, number, group, [outcome for outcome in comparison.gates if outcome.group == group])
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _add_suite(root: ET.Element, number: int, group: str, outcomes: Sequence[GateOutcome]) -> None:
    decisions = [outcome.decision for outcome in outcomes]
    suite = ET.SubElement(root, "testsuite", {
        "name": _text(group), "package": "edgedistill", "id": str(number), "hostname": platform.node() or "localhost",
        "timestamp": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S"), "time": "0",
        "tests": str(len(outcomes)), "failures": str(decisions.count("fail")), "errors": str(decisions.count("undecided")),
    })  # fmt: skip
    ET.SubElement(suite, "properties")
    for outcome in outcomes:
        name = f"{outcome.who}: {outcome.gate}"
        case = ET.SubElement(suite, "testcase", {"name": _text(name), "classname": "edgedistill.gate", "time": "0"})
        element = {"fail": "failure", "undecided": "error"}.get(outcome.decision)
        if element:
            ET.SubElement(case, element, {"type": outcome.decision, "message": _text(outcome.found)})
    ET.SubElement(suite, "system-out").text = "\n".join(_text(f"{one.gate}: {one.found}") for one in outcomes)
    ET.SubElement(suite, "system-err")


def _text(text: str) -> str:
    """Remove control characters, which XML does not allow."""
    return _NOT_XML.sub("", text)
