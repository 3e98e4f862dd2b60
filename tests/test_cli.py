"""The command line: what it lists, how it loads, and how commands end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from s4m_stages.cli import COMMANDS

HEAVY = ("torch", "mmdet", "mmengine", "mmcv", "sam2", "zarr", "numpy")

ENDINGS = '''
import typer
from s4m_cache.errors import CacheError
from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError

app = typer.Typer()

@app.command()
def user_error(): raise UserError("no such file: [a]/b.json")

@app.command()
def cache_error(): raise CacheError("part 3 is torn")

@app.command()
def full(): raise OSError(28, "No space left on device", "/w/metrics.jsonl")

@app.command()
def bug(): raise ZeroDivisionError("who divides?")

@app.command()
def interrupted(): raise KeyboardInterrupt

@app.command()
def terminated(): raise SystemExit(143)

@app.command()
def speaks():
    console.progress.print("a note")
    console.result.print("a table")

def single(number: int):
    """Doubles a number."""
    print(2 * number)
'''


def run_python(code: str, *args: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path or ""), "COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, env=environment, timeout=60
    )


@pytest.fixture
def s4m(tmp_path):
    """Runs `s4m` with a command table of our own: `endings` (a Typer app) and `single` (a function)."""
    (tmp_path / "endings.py").write_text(ENDINGS)
    code = (
        "from s4m_stages import cli\n"
        "cli.COMMANDS.clear()\n"
        "cli.COMMANDS['endings'] = cli.Command('endings:app', 'Ways to end.')\n"
        "cli.COMMANDS['single'] = cli.Command('endings:single', 'Doubles.')\n"
        "cli.COMMANDS['absent'] = cli.Command('no_such_module:app', 'Cannot be imported.')\n"
        "cli.main()"
    )
    return lambda *args: run_python(code, *args, path=tmp_path)


def loaded_by(*args: str) -> set[str]:
    code = (
        "import sys\n"
        "from s4m_stages.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        f"print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = run_python(code, *args)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


def test_help__of_s4m__imports_nothing_heavy():
    assert loaded_by("--help") == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_help__of_a_command__does_not_import_torch(name):
    assert not loaded_by(name, "--help") & {"torch", "mmdet", "mmengine", "mmcv", "sam2"}


def test_command_table__every_line__names_a_callable_and_is_listed():
    listing = run_python("from s4m_stages.cli import main; main()", "--help").stdout
    for name, command in COMMANDS.items():
        assert f" {name} " in listing
        assert command.help.endswith(".")


def test_listing__with_a_module_that_cannot_be_imported__still_works(s4m):
    done = s4m("--help")
    assert done.returncode == 0
    assert "Cannot be imported." in done.stdout


def test_function__as_a_command__is_called_with_typed_arguments(s4m):
    assert s4m("single", "21").stdout == "42\n"
    assert "Doubles a number." in s4m("single", "--help").stdout


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("user-error", 1, "no such file: [a]/b.json"),
        ("cache-error", 1, "part 3 is torn"),
        ("interrupted", 130, ""),
        ("terminated", 143, ""),
    ],
)
def test_command__that_fails_knowingly__gives_its_message_without_traceback(s4m, command, code, message):
    done = s4m("endings", command)
    assert (done.returncode, done.stderr.strip()) == (code, message)


@pytest.mark.parametrize("switches", [("--debug",), ()], ids=["debug", "usual"])
def test_debug__fault_of_the_user__shows_where_it_was_found(s4m, switches):
    done = s4m(*switches, "endings", "user-error")
    assert done.returncode == 1
    assert done.stderr.endswith("no such file: [a]/b.json\n")
    assert ("endings.py" in done.stderr and "Traceback" in done.stderr) == bool(switches)


def test_command__that_the_disk_refuses__explains_it_without_traceback(s4m):
    done = s4m("endings", "full")
    assert done.returncode == 1
    assert done.stderr.startswith("Cannot use /w/metrics.jsonl: No space left on device")
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr


def test_command__with_a_bug__keeps_the_end_of_the_traceback_and_says_so(s4m):
    done = s4m("endings", "bug")
    assert done.returncode == 1
    assert "ZeroDivisionError: who divides?" in done.stderr
    assert "This is a bug" in done.stderr
    assert done.stderr.count("\n  File ") <= 6


@pytest.mark.parametrize(
    "args", [("nonsense",), ("single", "many"), ("single",), ("--nonsense",)], ids=" ".join
)
def test_usage__that_is_wrong__exits_with_2(s4m, args):
    assert s4m(*args).returncode == 2


def test_quiet__silences_notes__and_keeps_results(s4m):
    loud, quiet = s4m("endings", "speaks"), s4m("--quiet", "endings", "speaks")
    assert (loud.stdout, loud.stderr) == ("a table\n", "a note\n")
    assert (quiet.stdout, quiet.stderr) == ("a table\n", "")


def test_completion__of_a_command_name__offers_the_table(s4m):
    os_environ = {"_S4M_COMPLETE": "complete_bash", "COMP_WORDS": "s4m si", "COMP_CWORD": "1"}
    code = f"import os, sys; os.environ.update({os_environ!r}); sys.argv[0] = 's4m'\n"
    code += "from s4m_stages import cli\n"
    code += "cli.COMMANDS['single'] = cli.Command('endings:single', 'Doubles.')\ncli.main()"
    assert run_python(code).stdout.split() == ["single"]
