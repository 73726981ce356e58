"""The Kotlin and the Swift file that carry out a contract in an app: code that is the same for all models, and a model's constants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from edgedistill.records.contract import Contract, PictureRules


class Language(NamedTuple):
    """The literals of a language: lists of numbers, no value, the ending of a 32-bit float, and the escape of a code point."""

    begin: str
    end: str
    nothing: str
    suffix: str
    escape: str


KOTLIN: Final = Language("floatArrayOf(", ")", "null", "f", "\\u{:04x}")
SWIFT: Final = Language("[", "]", "nil", "", "\\u{{{:x}}}")
SWIFT_RULES: Final = {"letterbox-corner": "letterboxCorner"}


def contract_code(contract: Contract, sources: Path) -> dict[str, str]:
    """Return the files by name for a contract that takes pictures; `sources` is the folder targets/mobile."""
    constants = {"Contract.kt": _kotlin(contract), "Contract.swift": _swift(contract)}
    return {name: (sources / name).read_text(encoding="utf-8") + text for name, text in constants.items()}


def _kotlin(contract: Contract) -> str:
    rules, found = _rules(contract), contract.detection
    rule = "null" if rules.rule is None else f'"{rules.rule}"'
    lines = [f"val rules = PictureRules({rules.width}, {rules.height}, {rule}, {', '.join(_values(rules, KOTLIN))})"]
    if found is not None:
        lines.append(f"val limits = DetectionRules({found.floor}f, {found.overlap}f, {found.limit})")
    lines.append(f"val classes = listOf({_strings(contract.classes, KOTLIN)})")
    body = "".join(f"    {line}\n" for line in lines)
    return f"\n/** The constants of the model. */\nobject Contract {{\n{body}}}\n"


def _swift(contract: Contract) -> str:
    rules, found = _rules(contract), contract.detection
    rule = "nil" if rules.rule is None else f".{SWIFT_RULES.get(rules.rule, rules.rule)}"
    names = ("padding", "channels", "divideBy", "mean", "std")
    values = ", ".join(f"{name}: {value}" for name, value in zip(names, _values(rules, SWIFT), strict=True))
    lines = [f"let rules = PictureRules(width: {rules.width}, height: {rules.height}, rule: {rule}, {values})"]
    if found is not None:
        limits = f"floor: {found.floor}, overlap: {found.overlap}, limit: {found.limit}"
        lines.append(f"let limits = DetectionRules({limits})")
    lines.append(f"let classes = [{_strings(contract.classes, SWIFT)}]")
    body = "".join(f"    public static {line}\n" for line in lines)
    return f"\n/// The constants of the model.\npublic enum Contract {{\n{body}}}\n"


def _rules(contract: Contract) -> PictureRules:
    assert contract.picture is not None, contract.reason
    return contract.picture


def _values(rules: PictureRules, language: Language) -> list[str]:
    """Return padding, channels, divisor, mean and deviation as literals."""
    channels = 3 if rules.colour == "rgb" else 1
    divisor = f"{rules.divide_by}{language.suffix}"
    return [str(rules.padding), str(channels), divisor, _floats(rules.mean, language), _floats(rules.std, language)]


def _floats(values: Sequence[float] | None, language: Language) -> str:
    if values is None:
        return language.nothing
    return language.begin + ", ".join(f"{value}{language.suffix}" for value in values) + language.end


def _strings(values: Sequence[str], language: Language) -> str:
    return ", ".join(f'"{"".join(_escaped(one, language) for one in value)}"' for value in values)


def _escaped(character: str, language: Language) -> str:
    r"""Escape what ends a literal or begins an expression: quotes, backslashes, and "$" in Kotlin; code points above 16 bits are printable."""
    is_plain = character.isprintable() and character not in '"\\$'
    return character if is_plain else language.escape.format(ord(character))
