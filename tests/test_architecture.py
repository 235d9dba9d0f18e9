"""The plan of the house, held: imports run downwards only, and in no circle, those inside functions too."""

import ast
from pathlib import Path

import speechstream

ROOT = Path(speechstream.__file__).parent
# From the top down; what stands on one line does not import its neighbours.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"export"},
    {"convert", "serve"},
    {"duplex"},
    {"asr", "tts"},
    {"models", "lm"},
    {"runtime"},
    {"nn", "text"},
    {"audio", "kernels"},
    {"bundle"},
    {"state"},
    {"events"},
    {"errors", "config", "_lazy", "codes"},
]
HEIGHT = {name: -floor for floor, names in enumerate(FLOORS) for name in names}


def modules() -> dict[str, Path]:
    found = {}
    for folder, prefix in (
        (ROOT, "speechstream"),
        (ROOT.parent / "kernels", "speechstream.kernels"),
    ):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((prefix, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """The modules of this package that a module imports anywhere, `if TYPE_CHECKING` included."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {
                full if (full := f"{node.module}.{a.name}") in MODULES else node.module
                for a in node.names
                if node.module in MODULES
            }
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
    return found - {name}


GRAPH = {name: imports(name) for name in MODULES}


def floor(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def named(name: str) -> set[str]:
    """Modules of this package that another one names in full in a call, as `import_module` takes them."""
    return {
        a.value
        for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        for a in node.args
        if isinstance(a, ast.Constant) and a.value in MODULES
    }


def test_imports_by_name_run_downwards_too():
    table = {"speechstream.models"}  # the one that may name what stands above it
    wrong = [
        f"{a} -> {b}"
        for a in MODULES
        if a not in table
        for b in named(a)
        if floor(a) and floor(b) and floor(a) != floor(b) and HEIGHT[floor(a)] <= HEIGHT[floor(b)]
    ]
    assert not wrong


def test_every_module_has_a_floor():
    assert len(MODULES) > 100
    assert {floor(m) for m in MODULES} - {""} <= set(HEIGHT)


def test_imports_run_downwards():
    wrong = [
        f"{a} -> {b}"
        for a, seen in GRAPH.items()
        for b in seen
        if floor(a) and floor(b) and floor(a) != floor(b) and HEIGHT[floor(a)] <= HEIGHT[floor(b)]
    ]
    assert not wrong


def test_no_families_know_each_other():
    families = {
        "asr": ("whisper", "fastconformer", "speech_llm", "voxtral", "kyutai", "omni"),
        "tts": ("blockwise", "codec_lm", "cosyvoice", "csm", "piper", "pocket"),
    }
    wrong = []
    for task, names in families.items():
        for a, seen in GRAPH.items():
            inside = a.split(".")[1:3]
            for b in seen:
                other = b.split(".")[1:3]
                if len(other) == 2 and other[0] == task and other[1] in names and inside != other:
                    if a.split(".")[1] == task:
                        wrong.append(f"{a} -> {b}")
    assert not wrong


def test_there_is_no_circle():
    done: set[str] = set()
    path: list[str] = []

    def visit(module: str) -> None:
        if module in path:
            circle = " -> ".join([*path[path.index(module) :], module])
            raise AssertionError(circle)
        if module not in done:
            path.append(module)
            for other in sorted(GRAPH[module]):
                visit(other)
            done.add(path.pop())

    for module in sorted(GRAPH):
        visit(module)


def test_only_one_module_makes_sessions():
    makers = [m for m, p in MODULES.items() if "InferenceSession(" in p.read_text(encoding="utf-8")]
    assert makers == ["speechstream.runtime.session"]


def test_no_state_is_kept_by_identity():
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        imported = {
            a.name
            for n in ast.walk(tree)
            if isinstance(n, (ast.Import, ast.ImportFrom))
            for a in n.names
        }
        assert "weakref" not in imported, module
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
        by_id = [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == "id"]
        assert not by_id, module
        assert not ("threading" in names and "threading.local" in path.read_text(encoding="utf-8"))
