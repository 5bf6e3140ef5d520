"""Hostile and damaged files: nothing runs, none takes much time or memory, and each ends in one sentence."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sharingan_hub.convert import hostile
from tests.sharingan_hub.convert.assembler import CANARY, Hostile

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.xdist_group("hostile")  # which reads them all only once
# Reads every file of a folder. Whatever Python tells its audit hooks meanwhile, other than that the file itself is opened
# for reading, is a sign that something ran. The memory of the first file of each kind is left out: it counts as imports.
READER = """
import codecs, json, sys, time
from pathlib import Path

from sharingan_hub.convert import unpickle
from sharingan_hub.convert.errors import ConversionError

good, folder = map(Path, sys.argv[1:])
watched, events, results = None, [], {}


def audit(event, arguments):
    if watched and event != "builtins.id" and (event, *arguments[:2]) != ("open", str(watched), "r"):
        events.append(f"{event} {arguments!r:.100}")


def status(name):
    if not Path("/proc/self/clear_refs").exists():
        return 0
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))


def forget_peak():
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


for codec in ("raw-unicode-escape", "cp437"):
    codecs.lookup(codec)
for path in good.iterdir():
    unpickle.read(path)
sys.addaudithook(audit)
for path in sorted(folder.iterdir()):
    forget_peak()
    before, start = status("VmRSS"), time.process_time()
    watched = path
    try:
        unpickle.read(path)
        said = None
    except ConversionError as error:
        said = str(error)
    except Exception as error:
        said = f"TRACEBACK {error!r}"
    watched = None
    seconds, grown = time.process_time() - start, status("VmHWM") - before
    results[path.name] = {"said": said, "seconds": seconds, "grown": grown, "events": events[:]}
    events.clear()
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Hostile]:
    made = list(hostile.all_files(tmp_path_factory.mktemp("between")))
    assert len({file.name for file in made}) == len(made) > 300
    return {f"{index:04d}": file for index, file in enumerate(made)}


@pytest.fixture(scope="module")
def results(files: dict[str, Hostile], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What came of each file, all read in one process."""
    good, folder, here = (tmp_path_factory.mktemp(name) for name in ("good", "hostile", "here"))
    hostile.good_files(good)
    for name, file in files.items():
        (folder / name).write_bytes(file.data)
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READER, good, folder], cwd=here, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert list(here.iterdir()) == []  # no CANARY
    for name in files:
        (folder / name).unlink()
    yield json.loads(done.stdout)


def test_nothing_of_a_hostile_file_runs(files, results):
    assert {files[name].name: result["events"] for name, result in results.items() if result["events"]} == {}


def test_each_ends_in_one_sentence_that_says_why(files, results):
    assert results.keys() == files.keys()
    wrong = {}
    for name, file in files.items():
        said = results[name]["said"]
        is_sentence = said is not None and said.startswith(f"{name} ") and said.isprintable() and len(said) < 500
        if file.reason is None:
            if said is not None and not is_sentence:
                wrong[file.name] = said
        elif not is_sentence or file.reason not in said:
            wrong[file.name] = said
    assert wrong == {}


def test_none_takes_much_memory(files, results):
    much = {
        files[name].name: result["grown"]
        for name, result in results.items()
        if result["grown"] > 1.2 * len(files[name].data) + 200e6
    }
    assert much == {}


def test_none_takes_long(files, results):
    long = {files[name].name: result["seconds"] for name, result in results.items() if result["seconds"] > 2}
    assert long == {}


@pytest.mark.parametrize(
    "title",
    ["GLOBAL exec", "STACK_GLOBAL open", "memo system", "INST system", "OBJ eval"],
)
def test_the_attacks_are_real(title, tmp_path):
    """Python's own unpickler falls for them."""
    attack = dict(hostile.calls())[title]
    (tmp_path / "attack.pkl").write_bytes(attack)
    done = subprocess.run(
        [sys.executable, "-c", "import pickle; pickle.load(open('attack.pkl', 'rb'))"],
        cwd=tmp_path,
        capture_output=True,
    )
    assert (tmp_path / CANARY).exists(), done.stderr


def test_the_bombs_are_real():
    """What is refused for going on for ever is a valid pickle, which Python reads in no time."""
    bombs = {bomb.name: bomb.data for bomb in hostile.bombs()}
    value = pickle.loads(bombs["billion laughs of tuples"])
    for _ in range(60):
        assert value[0] is value[1]
        value = value[0]
    assert value is None
