"""How often one idea stands in several places of the package, read from the source of a checkout.

usage: python benchmarks/house/counts.py [CHECKOUT] > COUNTS.json

`counts` has the figures, `places` the lines behind them. Nothing is imported, so a checkout of any age can be counted.
"""

import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

STAGES = {"data", "teacher", "soft_labels", "student", "distill", "quantize", "export", "compile", "bench", "report"}
NO_SECTION = {"soft_labels", "compile"}
"""Stages that are no section of a configuration: a list of names with one of these is a list of stages."""
TASKS = {"classification", "regression", "embedding", "multilabel", "detection", "segmentation"}
KINDS = {"image", "signal", "tokens", "audio", "features", "text"}
OWNERS = re.compile(r"edgedistill/(tasks/|(data/)?(tasks|kinds?)\.py$|kinds?/)")
"""Where what depends on a task or on a kind of data belongs."""
AUGMENTATION = "edgedistill/data/augment.py"
"""Reads `crop:4`, which is written like the name of a model and is none."""
JOB = "edgedistill.job/1"

Check = Callable[[str, ast.AST], bool]


def annotated(name: str) -> Check:
    """Look for functions with a parameter of a type."""
    word = re.compile(rf"\b{name}\b")

    def holds(_: str, node: ast.AST) -> bool:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return False
        given = node.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        return any(one.annotation is not None and word.search(ast.unparse(one.annotation)) for one in arguments)

    return holds


def asks_for(attribute: str, values: set[str]) -> Check:
    """Look for comparisons of `task` or `kind` with one of its values, and for `match` statements over it."""

    def is_it(node: ast.AST) -> bool:
        return getattr(node, "attr", getattr(node, "id", None)) == attribute

    def holds(file: str, node: ast.AST) -> bool:
        if OWNERS.match(file):
            return False
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            return any(map(is_it, sides)) and any(strings(side) & values for side in sides)
        return isinstance(node, ast.Match) and is_it(node.subject) and bool(strings(node) & values)

    return holds


def strings(node: ast.AST) -> set[str]:
    """Return the string literals below a node."""
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def lists_stages(_: str, node: ast.AST) -> bool:
    """Say whether a collection or a class has four or more stages as its members, one of them no section."""
    named = set(members(node)) & STAGES
    return len(named) >= 4 and bool(named & NO_SECTION)


def members(node: ast.AST) -> Iterator[str]:
    """Return the names of what a collection or a class holds: literals, keys, fields, or the first words of entries."""
    if isinstance(node, ast.ClassDef):
        for line in node.body:
            targets = [line.target] if isinstance(line, ast.AnnAssign) else getattr(line, "targets", [])
            yield from (target.id for target in targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.Dict):
        yield from (key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
    elif isinstance(node, ast.Tuple | ast.List | ast.Set):
        yield from filter(None, map(first_word, node.elts))


def first_word(node: ast.AST) -> str | None:
    if isinstance(node, ast.Call):
        named = [keyword.value for keyword in node.keywords if keyword.arg == "name"]
        return next(filter(None, map(first_word, [*named, *node.args[:1]])), None)
    if isinstance(node, ast.Tuple | ast.List) and node.elts:
        return first_word(node.elts[0])
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def parses_spec(file: str, node: ast.AST) -> bool:
    """Say whether a model's name is taken apart: split at its colon, or asked for its prefix or for .onnx or .npy."""
    if file == AUGMENTATION:
        return False
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        of, arguments = ast.unparse(node.func.value), set().union(*map(strings, node.args)) if node.args else set()
        if node.func.attr in ("partition", "rpartition", "split", "rsplit") and arguments == {":"}:
            return re.search("spec|model|text|name", of) is not None
        if node.func.attr in ("startswith", "removeprefix"):
            return bool(arguments & {"zoo:", "timm:"})
        return node.func.attr == "endswith" and bool(arguments & {".onnx", ".npy"}) and is_model(of)
    if isinstance(node, ast.Compare) and ".suffix" in ast.unparse(node.left):
        return bool(strings(node) & {".onnx", ".npy"}) and is_model(ast.unparse(node.left))
    return False


def is_model(expression: str) -> bool:
    return re.search("spec|model|teacher|student", expression) is not None


def job_tables(tree: ast.Module) -> Iterator[ast.Dict]:
    """Yield the dictionaries that are a job of the harness: with its schema, or with both its arms and its processes."""
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign | ast.AnnAssign)]
    constants = {name for node in assigned for name in names_of(node) if strings(node) == {JOB}}
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            keys = set(members(node))
            values = {getattr(value, "value", getattr(value, "id", None)) for value in node.values}
            if ("schema" in keys and values & {JOB, *constants}) or {"arms", "processes"} <= keys:
                yield node


def names_of(node: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
    return [target.id for target in targets if isinstance(target, ast.Name)]


CHECKS: dict[str, Check] = {
    "signatures that take Config": annotated("Config"),
    "signatures that take Job": annotated("Job"),
    "comparisons of a task outside its protocol": asks_for("task", TASKS),
    "comparisons of a kind of data outside its protocol": asks_for("kind", KINDS),
    "places that list the stages": lists_stages,
    "places that parse a model spec": parses_spec,
}


def counted(root: Path) -> dict[str, list[str]]:
    """Return the places of each check in the package, as FILE:LINE; jobs of the harness are also counted in targets/."""
    places: dict[str, list[str]] = {name: [] for name in CHECKS}
    classes: dict[str, list[str]] = defaultdict(list)
    for path in sources(root, "edgedistill", "targets"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        file = path.relative_to(root).as_posix()
        places.setdefault("places that build the harness's job", []).extend(
            f"{file}:{node.lineno}" for node in job_tables(tree)
        )
        for node in ast.walk(tree) if file.startswith("edgedistill/") else ():
            for name, check in CHECKS.items():
                if check(file, node):
                    places[name].append(f"{file}:{getattr(node, 'lineno', 1)}")
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(f"{file}:{node.lineno}")
    places["class names defined more than once"] = [
        f"{name}: {', '.join(where)}" for name, where in sorted(classes.items()) if len(where) > 1
    ]
    places["files at the top of the package"] = [path.name for path in sorted((root / "edgedistill").glob("*.py"))]
    return places


def sources(root: Path, *folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]


def occurrences(root: Path, word: str) -> int:
    """Count a word in the sources, the documents and the README."""
    texts = [*sources(root, "edgedistill", "targets", "tests"), *(root / "docs").glob("*.md"), root / "README.md"]
    return sum(len(re.findall(rf"\b{word}\b", path.read_text(encoding="utf-8"), re.IGNORECASE)) for path in texts)


def main(root: Path) -> None:
    places = counted(root)
    counts = {name: len(where) for name, where in places.items()}
    files = {name: len({place.rpartition(":")[0] for place in places[name]}) for name in CHECKS}
    counts |= {
        f"files with {name}": files[name] for name in ("places that parse a model spec", "signatures that take Job")
    }
    counts["occurrences of 'found'"] = occurrences(root, "found")
    command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    print(json.dumps({"commit": commit, "counts": counts, "places": places}, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
