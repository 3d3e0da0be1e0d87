"""What a shell is given when it asks for completion, by the protocol it uses."""

import os
import subprocess
import sys

import pytest

import nightlab as nl
from nightlab.cli import completion
from nightlab.data.catalogs import ENTRIES
from nightlab.data.manifests import manifest_names
from nightlab.data.sources.catalogue import entries
from nightlab.pipelines.table import STAGES

CODE = "import sys; sys.argv[0] = 'nightlab'; from nightlab.cli import main; main()"


def completed(line, shell="bash"):
    """What the shell offers for the last word of a line."""
    words = line.split(" ")
    environment = {"_NIGHTLAB_COMPLETE": f"complete_{shell}", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    environment |= {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    command = [sys.executable, "-c", CODE]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    assert not run.stderr
    return run.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("nightlab cat", ["catalog"]),
        ("nightlab run S", ["SingleFrame"]),
        ("nightlab run ApPipe#sub", ["ApPipe#subtract"]),
        ("nightlab run ApPipe --data ", list(ENTRIES)),
        ("nightlab stages warp", ["warp_template"]),
        ("nightlab catalog list stripe82.dia_o", ["stripe82.dia_object"]),
        ("nightlab catalog check -c kid", ["kids"]),
        ("nightlab catalog export-v2 dec", ["decam"]),
        ("nightlab catalog fetch kids-", ["kids-galaxies"]),
    ],
)
def test_names_are_completed(line, offered):
    assert completed(line) == offered


def test_other_shells_are_served_too():
    # zsh is given names with their descriptions
    assert "ApPipe" in "".join(completed("nightlab run A", "zsh"))
    assert completed("nightlab run A", "fish") == ["ApPipe"]


def test_the_script_names_the_function_that_completes():
    command = [sys.executable, "-c", CODE, "--show-completion", "bash"]
    script = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "_NIGHTLAB_COMPLETE=complete_bash" in script
    assert "complete -o default -F _nightlab_completion nightlab" in script


def test_every_name_there_is_can_be_completed():
    assert completion.data("") == list(ENTRIES)
    assert completion.stages("") == list(STAGES)
    named = [name for part in completion.entries("") for name in completion.entries(f"{part}.")]
    assert named == [name for name, _ in entries(nl.open_catalog())]
    assert set(completion.data_sets("")) >= set(manifest_names())
    assert set(completion.pipelines("ApPipe#")) >= {"ApPipe#calibrate", "ApPipe#detector"}
    assert completion.pipelines("Nope#") == []
