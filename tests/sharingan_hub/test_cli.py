"""The command with a small stand-in for the pipeline; the tests at the end use a small model in the real one."""

import errno
import json
import os
import re
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import sharingan_hub.media
import sharingan_hub.pipeline_sharingan as real_pipeline
from sharingan_hub import RadialGenerator, SharinganPipeline
from sharingan_hub.cli import MAX_SEED, main, parse_seeds, png_name, share_of_seeds
from sharingan_hub.media import read_recipe


class StandIn:
    """Paints seed, psi and order into one colour, and notes what it was asked."""

    loaded: list[tuple] = []
    batches: list[list[int]] = []
    alive: list[weakref.ref] = []
    most_alive = 0
    error: BaseException | None = None
    fail_at: int | None = None
    weight = 0.0
    after_call: Callable[[], None] | None = None

    def __init__(self):
        self.generator_model = torch.nn.Linear(3, 2)
        torch.nn.init.constant_(self.generator_model.weight, StandIn.weight)
        torch.nn.init.zeros_(self.generator_model.bias)
        self.generator_model.conditions = ("order", "output_size")
        self.generator_model.resolution = 8
        self.generator_model.config = {"max_order": 4, "order_probs": [0.5, 0.0, 0.25, 0.25], "num_masks": 6}

    @classmethod
    def from_pretrained(cls, *model):
        cls.loaded.append(model)
        if model == ("missing",):
            raise OSError("missing is no local folder and no model on the Hub\nMore lines that explain at length")
        return cls()

    def to(self, device):
        self.generator_model.to(device)
        return self

    def __call__(self, seeds, truncation_psi, order=None, output_size=8):
        StandIn.batches.append(list(seeds))
        StandIn.most_alive = max(StandIn.most_alive, sum(ref() is not None for ref in StandIn.alive))
        if StandIn.fail_at in seeds:
            raise StandIn.error
        colour = [(seed % 256, round(truncation_psi * 100), order or 0) for seed in seeds]
        images = [Image.new("RGB", (output_size, output_size), c) for c in colour]
        StandIn.alive += map(weakref.ref, images)
        if StandIn.after_call is not None:
            StandIn.after_call()
        return types.SimpleNamespace(images=images)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    for name, value in {
        "loaded": [],
        "batches": [],
        "alive": [],
        "most_alive": 0,
        "fail_at": None,
        "weight": 0.0,
    }.items():
        monkeypatch.setattr(StandIn, name, value)
    module = types.ModuleType("sharingan_hub.pipeline_sharingan")
    module.SharinganPipeline = StandIn
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return StandIn


def generate(folder: Path, *options: object) -> int:
    return main(["generate", "--device", "cpu", "--output-dir", str(folder), *map(str, options)])


def made(folder: Path) -> dict[str, int]:
    """Name and identity of each file: a file written anew is another one."""
    return {path.name: path.stat().st_ino for path in folder.iterdir() if path.suffix == ".png"}


def refused(capsys, *argv: object) -> str:
    """The one sentence with which a command ends that exits with 2."""
    try:
        code = main([str(argument) for argument in argv])
    except SystemExit as stopped:
        code = stopped.code
    text = capsys.readouterr().err.strip()
    assert code == 2
    lines = [line for line in text.split("\n") if "Generating" not in line]
    assert len(lines) == 1 and "Traceback" not in text, text
    return lines[0]


spans = st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda span: (span[0], span[0] + span[1]))


@given(spans=st.lists(spans, min_size=1, max_size=6), spaces=st.booleans())
def test_seeds_are_the_set_that_was_written(spans, spaces):
    text = ("," + " " * spaces).join(f"{a}-{b}" if a != b else f"{a}" for a, b in spans)
    seeds = [seed for part in parse_seeds(text) for seed in part]
    assert seeds == sorted({seed for a, b in spans for seed in range(a, b + 1)})


def test_large_ranges_stay_ranges():
    assert parse_seeds(f"0-{MAX_SEED}") == [range(2**32)]
    assert parse_seeds("1,5,9-12") == [range(1, 2), range(5, 6), range(9, 13)]


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1-", "-", "3-1", "1,,2", "1.5", "1-2-3", "²", "4294967296", "9" * 5000]
)
def test_bad_seeds_are_refused(capsys, text):
    sentence = refused(capsys, "generate", f"--seeds={text}")
    assert "--seeds" in sentence and len(sentence) < 300


@given(spans=st.lists(spans, min_size=1, max_size=6), processes=st.integers(1, 7))
def test_shares_are_even_and_hold_every_seed_once(spans, processes):
    seeds = parse_seeds(",".join(f"{a}-{b}" for a, b in spans))
    shares = [share_of_seeds(seeds, process, processes) for process in range(processes)]
    sizes = [sum(map(len, share)) for share in shares]
    assert sorted(seed for share in shares for part in share for seed in part) == [s for part in seeds for s in part]
    assert max(sizes) - min(sizes) <= 1


def test_one_picture_for_each_seed(tmp_path, capsys, stand_in):
    code = generate(tmp_path / "a/b", "--seeds", "0-4,300", "--order", 3, "--truncation-psi", 0.5, "--output-size", 12)
    assert code == 0 and "6 pictures written" in capsys.readouterr().out
    assert stand_in.loaded == [()]
    assert sorted(made(tmp_path / "a/b")) == [f"seed000000{i}.png" for i in range(5)] + ["seed0000300.png"]
    assert sorted(os.listdir(tmp_path / "a/b")) == ["generate.json", *sorted(made(tmp_path / "a/b"))]
    with Image.open(tmp_path / "a/b/seed0000300.png") as image:
        assert image.size == (12, 12) and image.getpixel((0, 0)) == (300 % 256, 50, 3)
    settings = json.loads((tmp_path / "a/b/generate.json").read_text())
    assert {"model": "embedded", "truncation_psi": 0.5, "order": 3, "output_size": 12}.items() <= settings.items()
    assert read_recipe(tmp_path / "a/b/seed0000300.png") == {**settings, "seed": 300}


def test_defaults_are_sixteen_seeds_and_any_order(tmp_path, monkeypatch, stand_in):
    monkeypatch.chdir(tmp_path)
    assert main(["generate"]) == 0
    assert stand_in.batches == [list(range(16))] and len(made(tmp_path / "out")) == 16
    with Image.open(tmp_path / "out/seed0000001.png") as image:
        assert image.size == (8, 8) and image.getpixel((0, 0)) == (1, 70, 0)


def test_a_second_run_makes_what_is_missing_only(tmp_path, capsys, stand_in):
    generate(tmp_path, "--seeds", "0-5")
    before = made(tmp_path)
    (tmp_path / png_name(2)).unlink()
    (tmp_path / png_name(4)).write_bytes(b"")  # as after a power cut
    stand_in.batches.clear()
    assert generate(tmp_path, "--seeds", "0-7") == 0
    assert stand_in.batches == [[2, 4, 6, 7]]
    assert "4 pictures written" in (told := capsys.readouterr().out) and "4 were there already" in told
    after = made(tmp_path)
    assert len(after) == 8 and all(after[png_name(i)] == before[png_name(i)] for i in (0, 1, 3, 5))
    assert all(read_recipe(tmp_path / name)["seed"] == int(name[4:-4]) for name in after)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/big/seed.png"), 2, "No space left on device"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), 2, "CUDA out of memory"),
        (KeyboardInterrupt(), 130, "stopped"),
        (KeyError("a mistake of ours"), 2, "KeyError: 'a mistake of ours'"),
    ],
)
def test_a_run_that_failed_goes_on_where_it_stopped(tmp_path, capsys, stand_in, error, code, said):
    stand_in.fail_at, stand_in.error = 5, error
    assert generate(tmp_path, "--seeds", "0-9", "--batch-size", 2) == code
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told
    before = made(tmp_path)
    assert sorted(before) == [png_name(i) for i in range(4)]  # whole batches, all of them written
    stand_in.fail_at = None
    assert generate(tmp_path, "--seeds", "0-9", "--batch-size", 2) == 0
    after = made(tmp_path)
    assert len(after) == 10 and before.items() <= after.items()


def test_a_disk_that_fills_up_is_one_sentence(tmp_path, capsys, monkeypatch):
    write_png = sharingan_hub.media.write_png

    def full(image, path, recipe):
        if recipe["seed"] >= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_png(image, path, recipe)

    monkeypatch.setattr(sharingan_hub.media, "write_png", full)
    assert "No space left" in refused(
        capsys, "generate", "--device", "cpu", "--batch-size", 2, "--output-dir", tmp_path, "--seeds", "0-9"
    )
    assert sorted(made(tmp_path)) == [png_name(i) for i in range(3)]


def test_a_batch_is_written_while_the_next_is_made(tmp_path, monkeypatch, stand_in):
    """And no more than these two are held. Each write waits here for the next batch, and notes whether that came."""
    made_batches = [threading.Event() for _ in range(6)]
    write_png, overlapped = sharingan_hub.media.write_png, []

    def write_late(image, path, recipe):
        batch = recipe["seed"] // 4
        overlapped.append(batch == 5 or made_batches[batch + 1].wait(timeout=10))
        write_png(image, path, recipe)

    monkeypatch.setattr(sharingan_hub.media, "write_png", write_late)
    stand_in.after_call = lambda: made_batches[len(stand_in.batches) - 1].set()
    assert generate(tmp_path, "--seeds", "0-23", "--batch-size", 4) == 0
    assert [len(batch) for batch in stand_in.batches] == [4] * 6
    assert overlapped == [True] * 24 and len(made(tmp_path)) == 24
    assert stand_in.most_alive == 4  # as a batch begins, the one before is all there is


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--truncation-psi", 0.5), "truncation_psi 0.7"),
        (("--order", 2), "order None"),
        (("--output-size", 9), "output_size 8"),
    ],
)
def test_pictures_of_other_settings_are_left_alone(tmp_path, capsys, stand_in, options, named):
    generate(tmp_path, "--seeds", "0-3")
    before, settings = made(tmp_path), (tmp_path / "generate.json").read_text()
    sentence = refused(capsys, "generate", "--output-dir", tmp_path, "--seeds", "2-5", *options)
    assert named in sentence and "--overwrite" in sentence
    assert made(tmp_path) == before and (tmp_path / "generate.json").read_text() == settings

    assert generate(tmp_path, "--seeds", "2-5", "--overwrite", *options) == 0
    after = made(tmp_path)
    assert len(after) == 6 and [after[png_name(i)] == before[png_name(i)] for i in range(4)] == [
        True,
        True,
        False,
        False,
    ]


def test_a_model_trained_further_is_another_model(tmp_path, capsys, stand_in):
    generate(tmp_path, "--seeds", "0")
    stand_in.weight = 1.0
    assert "weights" in refused(capsys, "generate", "--output-dir", tmp_path, "--seeds", "1")


def test_a_model_folder_that_was_renamed_is_the_same_model(tmp_path, stand_in):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        assert generate(tmp_path / "out", "--seeds", "0-1", "--model", tmp_path / name) == 0
    assert stand_in.loaded == [(str(tmp_path / "here"),), (str(tmp_path / "there"),)] and stand_in.batches == [[0, 1]]
    # pictures are shared: where the model lay on someone's disk is nobody's business
    assert read_recipe(tmp_path / "out" / png_name(0))["model"] == "here"


def test_an_overwrite_that_was_stopped_goes_on(tmp_path, stand_in):
    """Old pictures that were not reached yet must not count as made."""
    generate(tmp_path, "--seeds", "0-5")
    stand_in.fail_at, stand_in.error = 3, KeyboardInterrupt()
    generate(tmp_path, "--seeds", "0-5", "--order", 2, "--overwrite", "--batch-size", 1)
    stand_in.fail_at = None
    stand_in.batches.clear()
    assert generate(tmp_path, "--seeds", "0-5", "--order", 2) == 0
    assert stand_in.batches == [[3, 4, 5]]
    assert all(read_recipe(tmp_path / name)["order"] == 2 for name in made(tmp_path))


def test_settings_without_pictures_bind_nobody(tmp_path):
    generate(tmp_path, "--seeds", "0")
    (tmp_path / png_name(0)).unlink()
    assert generate(tmp_path, "--seeds", "0", "--order", 2) == 0
    assert json.loads((tmp_path / "generate.json").read_text())["order"] == 2


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_pictures_of_unknown_settings_are_left_alone(tmp_path, capsys, content):
    Image.new("RGB", (3, 3)).save(tmp_path / png_name(0))
    if content is not None:
        (tmp_path / "generate.json").write_text(content)
    assert "unknown settings" in refused(capsys, "generate", "--output-dir", tmp_path, "--seeds", "0-3")
    assert len(made(tmp_path)) == 1


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "COMMAND"),
        (["paint"], "paint"),
        (["generate", "--sead", "1"], "--sead"),
        (["generate", "--order", "0"], "--order"),
        (["generate", "--order", "three"], "any"),
        (["generate", "--truncation-psi", "nan"], "--truncation-psi"),
        (["generate", "--truncation-psi", "high"], "'high'"),
        (["generate", "--output-size", "-5"], "-5"),
        (["generate", "--batch-size", "1e9"], "--batch-size"),
        (["generate", "--device", "abacus"], "abacus"),
        (["generate", "--model", "missing"], "missing is no local folder"),
        (["space", "--port", "70000"], "65535"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, argv, named):
    monkeypatch.chdir(tmp_path)
    assert named in refused(capsys, *argv)


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, capsys, place):
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" if place == "a file" else tmp_path / "file/out"
    assert str(folder) in refused(capsys, "generate", "--output-dir", folder)


def test_a_folder_without_permission_is_one_sentence(tmp_path, capsys, monkeypatch):
    def denied(self, *args, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", denied)
    assert f"{tmp_path}: Permission denied" in refused(capsys, "generate", "--output-dir", tmp_path)


def test_processes_share_the_seeds(tmp_path, capsys, monkeypatch, stand_in):
    monkeypatch.setenv("WORLD_SIZE", "3")
    state = types.SimpleNamespace(num_processes=3, device=torch.device("cpu"))
    # without a GPU and without `cpu`, Accelerate calls every process the only one
    monkeypatch.setattr("accelerate.PartialState", lambda cpu: state if cpu else None)
    shares = []
    for process in (2, 0, 1):
        state.process_index = process
        monkeypatch.setenv("LOCAL_RANK", str(process))
        stand_in.batches.clear()
        assert generate(tmp_path, "--seeds", "0-9,20") == 0
        shares.append(stand_in.batches[0])
        told = capsys.readouterr()
        assert bool(told.out) == ("Generating" in told.err) == (process == 0)  # one process speaks
    assert shares == [[2, 5, 8], [0, 3, 6, 9], [1, 4, 7, 20]]
    assert len(made(tmp_path)) == 11


def test_space_is_launched_where_told(monkeypatch):
    launched = {}
    space = types.ModuleType("sharingan_hub.space")
    space.__path__ = []
    space.build_demo = lambda model: types.SimpleNamespace(launch=lambda **options: launched.update(options))
    style = types.ModuleType("sharingan_hub.space.style")
    style.LAUNCH = {"theme": "red"}
    monkeypatch.setitem(sys.modules, space.__name__, space)
    monkeypatch.setitem(sys.modules, style.__name__, style)
    assert main(["space", "--port", "8123", "--host", "0.0.0.0"]) == 0
    assert launched == {"server_name": "0.0.0.0", "server_port": 8123, "theme": "red"}


@pytest.mark.parametrize("command", [[], ["generate"], ["publish"], ["info"], ["space"]])
def test_help_has_an_example(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    told = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "generate" in told if not command else f"example:\n  sharingan {command[0]}" in told


def test_help_imports_nothing_heavy():
    """Which keeps it well below half a second."""
    code = "import sys\nfrom sharingan_hub.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    imported = {name.partition(".")[0] for name in told.splitlines()[-1].split()}
    heavy = "torch numpy PIL diffusers gradio datasets accelerate huggingface_hub matplotlib av tqdm asyncio"
    assert "sharingan_hub" in imported and not imported & set(heavy.split())


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    """A checkpoint folder with an untrained generator."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    torch.manual_seed(0)
    generator = RadialGenerator(
        z_dim=16,
        w_dim=16,
        resolution=32,
        channels=(16, 8),
        base_radius=4,
        base_angle=4,
        order_probs=[0, 0, 1, 1, 0, 0, 0, 0],
    )
    SharinganPipeline(generator).save_pretrained(folder)
    return folder


def assert_drawn(folder: Path, pipe: SharinganPipeline, seeds: range, **options) -> None:
    """The folder holds exactly these seeds' pictures, whole, and as the pipeline draws them one by one."""
    assert sorted(made(folder)) == [png_name(seed) for seed in seeds]
    for seed in seeds:
        with Image.open(folder / png_name(seed)) as image:
            drawn = np.asarray(image).astype(int)
        expected = np.asarray(pipe(seeds=[seed], **options).images[0]).astype(int)
        assert drawn.shape == expected.shape and np.abs(drawn - expected).max() <= 1


def test_a_real_model_draws_and_is_described(tmp_path, capsys, monkeypatch, tiny_model):
    monkeypatch.setitem(sys.modules, "sharingan_hub.pipeline_sharingan", real_pipeline)
    pipe = SharinganPipeline.from_pretrained(tiny_model)
    options = ("--model", tiny_model, "--seeds", "0-4")
    assert generate(tmp_path / "own", *options, "--batch-size", 2) == 0
    assert_drawn(tmp_path / "own", pipe, range(5))
    asked = ("--order", 5, "--truncation-psi", 1.2, "--output-size", 48)
    assert generate(tmp_path / "asked", *options, *asked) == 0
    assert_drawn(tmp_path / "asked", pipe, range(5), order=5, truncation_psi=1.2, output_size=48)
    assert "order is 9" in refused(capsys, "generate", *options, "--output-dir", tmp_path / "none", "--order", 9)
    assert "neither a folder" in refused(capsys, "info", tmp_path / "nowhere")

    assert main(["info", str(tiny_model)]) == 0
    told = capsys.readouterr().out
    parameters = sum(parameter.numel() for parameter in pipe.generator_model.parameters())
    for fact in ("RadialGenerator", f"{parameters:,}", "32 px, or any other", "1 to 8", "3: 50%, 4: 50%"):
        assert fact in told


def start(*command: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_LOG_LEVEL": "error"}
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=Path(__file__).parents[2],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_launched_processes_make_what_one_makes(tmp_path, tiny_model):
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    options = ["--model", str(tiny_model), "--seeds", "0-24", "--output-dir", str(tmp_path / "out"), "--device", "cpu"]
    launched = start(*launcher, "-m", "sharingan_hub", "generate", *options)
    out, err = launched.communicate(timeout=120)
    assert launched.returncode == 0, err
    assert out.count("pictures written") == 1 and "13 pictures" in out and "all 2: 25" in out
    assert_drawn(tmp_path / "out", SharinganPipeline.from_pretrained(tiny_model), range(25))


@pytest.mark.slow
def test_a_killed_run_leaves_whole_pictures_and_goes_on(tmp_path, tiny_model):
    options = [
        "sharingan_hub",
        "generate",
        "--model",
        str(tiny_model),
        "--output-dir",
        str(tmp_path),
        "--batch-size",
        "2",
    ]
    run = start(*options, "--seeds", "0-1999")
    assert run.stderr is not None
    while not re.search(r"\| [1-9]\d*/2000", told := run.stderr.readline()):  # of the progress bar
        assert told, "ended before it was killed"
    run.kill()
    run.communicate()
    before = made(tmp_path)
    last = len(before) + 5
    assert 0 < last < 1999
    again = start(*options, "--seeds", f"0-{last - 1}")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert f"{len(before)} were there already" in out
    after = made(tmp_path)
    assert before.items() <= after.items()
    assert_drawn(tmp_path, SharinganPipeline.from_pretrained(tiny_model), range(last))
