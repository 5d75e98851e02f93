"""The rooms of the package: few at the root, and imports that point one way."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parents[1] / "toco_jax"

# From the door down: a module may import from its own floor and from those below it.
FLOORS = (
    {"__main__"},
    {"main", "evaluate", "predict", "convert", "export", "pretrain_shapes", "cli", "benchmark"}
    | {"data.check", "data.show", "data.prepare"},
    {"training", "evaluation", "demo"},
    {"inference", "method", "report"},
    {"run", "weights"},
    {"config"},
    {"models"},
    {"ops", "data"},
    {"runtime"},
    {"runtime.errors"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules():
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "__init__.py"
    }


def imported(tree, names):
    """The package's modules that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("toco_jax"):
            parent = node.module.removeprefix("toco_jax").lstrip(".")
            for alias in node.names:
                full = f"{parent}.{alias.name}".lstrip(".")
                yield full if full in names else parent
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("toco_jax."):
                    yield alias.name.removeprefix("toco_jax.")


def arrows():
    trees = modules()
    names = trees.keys() | {name.removesuffix(".__init__") for name in trees}
    return {
        name.removesuffix(".__init__"): {other for other in imported(tree, names) if other}
        for name, tree in trees.items()
    }


def test_the_root_is_small():
    entries = [
        path for path in PACKAGE.iterdir() if path.name not in ("__init__.py", "__pycache__")
    ]
    assert len(entries) <= 23
    assert {path.stem for path in entries} - {"py"} <= FLOOR_OF.keys()


def test_imports_point_down():
    def floor(name):
        return FLOOR_OF.get(name, FLOOR_OF[name.split(".")[0]])

    up = [
        f"{name} -> {other}"
        for name, others in arrows().items()
        for other in others
        if floor(other) < floor(name)
    ]
    assert not up


# Not mistakes of a user: a run that was told to stop, and what a pickle holds that is not read.
OTHER_EXCEPTIONS = {"Preempted", "Refused"}


def test_every_error_is_a_users():
    bases = {
        node.name: {getattr(base, "id", getattr(base, "attr", "")) for base in node.bases}
        for tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }

    def ancestors(name):
        return {name}.union(*(ancestors(base) for base in bases.get(name, set()) - {name}))

    errors = {
        name
        for name in bases
        if any(base.endswith(("Error", "Exception")) for base in ancestors(name))
    }
    assert len(errors) > 15
    assert {name for name in errors if "UserError" not in ancestors(name)} == OTHER_EXCEPTIONS


def test_imports_have_no_circle():
    graph, done = arrows(), set()

    def visit(name, path):
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])
