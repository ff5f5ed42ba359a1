"""The house keeps its own rules: every method has its line and its paper, nothing heavy loads early, the README is true."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from netwright.cli import COMMANDS, status
from netwright.core.paper import Paper

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "netwright"


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def netwright(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "netwright", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("heavy", ["torch", "sklearn", "optuna", "onnx", "onnxruntime", "PIL"])
def test_importing_netwright_and_its_help_load_nothing_heavy(heavy):
    code = "import sys, netwright, netwright.core, netwright.cli; netwright.cli.main(['--help']); print(%r in sys.modules)"
    assert python(code % heavy).splitlines()[-1] == "False"


@pytest.mark.parametrize("folder,found", [pytest.param(f, c, id=f) for f, c in status.catalogues()])
def test_every_method_has_a_name_a_paper_and_words(folder, found):
    assert len(found)
    for name, cls in found.items():
        assert isinstance(cls.paper, Paper) and cls.paper.year > 1900, name
        assert cls.name == name and cls.__doc__


@pytest.mark.parametrize("folder,found", [pytest.param(f, c, id=f) for f, c in status.catalogues()])
def test_every_file_that_defines_a_method_has_its_line(folder, found):
    """A file with `paper: ClassVar[Paper]` and a value is a method; its class must be in the catalogue."""
    listed = {cls.__name__ for _, catalogue in status.catalogues() for cls in catalogue.values()}
    for path in (SOURCE / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                has_paper = any(
                    isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name) and s.target.id == "paper" and s.value
                    for s in node.body
                )
                assert not has_paper or node.name in listed, f"{path.name}: {node.name} has no line in __init__"


def test_library_code_prints_nothing():
    for path in SOURCE.rglob("*.py"):
        if "cli" not in path.parts:
            assert not re.search(r"^\s*print\(", path.read_text(), re.M), path


def test_nothing_unpickles():
    for path in SOURCE.rglob("*.py"):
        calls = [ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        assert not {"torch.load", "pickle.load", "pickle.loads", "eval", "exec", "joblib.load"} & set(calls), path


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "design"] + ["design list", "design show", "design draw"])
def test_every_command_has_help_and_json(command):
    shown = netwright(*command.split(), "--help")
    assert shown.returncode == 0 and "--json" in shown.stdout, shown.stderr


def test_an_unknown_name_gets_a_suggestion_and_no_traceback():
    shown = netwright("design", "show", "convnxt")
    assert shown.returncode == 1
    assert "convnext" in shown.stderr and "Traceback" not in shown.stderr


def readme_commands() -> list[str]:
    blocks = re.findall(r"```(?:console|bash|sh)\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip() and not line.startswith("#")]


def test_the_readme_names_only_commands_and_files_that_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    commands = readme_commands()
    assert any(c.startswith("make demo") for c in commands) and any(c.startswith("make test") for c in commands)
    for line in commands:
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            assert words[1] in targets, line
        elif words[0].endswith("netwright"):
            assert words[1] in COMMANDS, line
            for word in words[2:]:
                if word.startswith("examples/"):
                    assert (ROOT / word.split(":")[0]).exists(), line


@pytest.mark.parametrize("page", ["status.md", "bibliography.md"])
def test_the_generated_pages_are_up_to_date(page):
    assert (ROOT / "docs" / page).read_text() == status.pages()[page], "run: make docs"


def test_the_verbs_have_a_chapter_and_an_example():
    for i, verb in enumerate(["design", "estimate", "search", "train", "compress", "spike", "deploy"], 1):
        assert (ROOT / "docs" / f"{i}-{verb}.md").exists()
        assert (ROOT / "examples" / f"{i}_{verb}.py").exists()
