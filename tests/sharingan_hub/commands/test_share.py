"""`sharingan publish` and `sharingan info`, with a Hub on this machine."""

import json
import subprocess
import sys

import pytest

from sharingan_hub import hub
from sharingan_hub.cli import main

from ..conftest import files_of, tiny_pipeline

REPO = "maker/eyes"


def told(capsys, *argv: object) -> dict[str, str]:
    """What `sharingan info` prints, name by name."""
    assert main(["info", *map(str, argv)]) == 0
    facts = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    return {name: value.strip() for name, value in facts.items()}


def refused(capsys, *argv: object) -> str:
    """The one sentence with which a command ends that exits with 2."""
    try:
        code = main([str(argument) for argument in argv])
    except SystemExit as stopped:
        code = stopped.code
    text = capsys.readouterr().err.strip()
    assert code == 2 and "\n" not in text and "Traceback" not in text, text
    return text


@pytest.fixture
def logged_in(loopback, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_maker")
    return loopback


def test_publish_says_where_the_model_is_now(logged_in, checkpoint, capsys):
    assert main(["publish", str(checkpoint), REPO, "--private"]) == 0
    repo = logged_in.repos[REPO]
    assert repo.private
    assert capsys.readouterr().out == f"{logged_in.endpoint}/{REPO}/commit/{repo.head.sha}\n"


def test_publish_to_a_branch_and_as_a_pull_request(logged_in, checkpoints, capsys):
    assert main(["publish", str(checkpoints / "old"), REPO]) == 0
    main_branch = logged_in.repos[REPO].head
    assert main(["publish", str(checkpoints / "new"), REPO, "--revision", "v2"]) == 0
    assert main(["publish", str(checkpoints / "new"), REPO, "--create-pr"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{logged_in.endpoint}/{REPO}/discussions/1"
    assert logged_in.repos[REPO].head == main_branch
    assert {"v2", "refs/pr/1"} <= logged_in.repos[REPO].refs.keys()


def test_what_cannot_be_published_is_one_sentence(loopback, checkpoint, capsys, tmp_path, monkeypatch):
    assert "log in with `hf auth login`" in refused(capsys, "publish", checkpoint, REPO)
    assert "is no folder that exists" in refused(capsys, "publish", tmp_path / "gone", REPO)
    assert "USER/NAME" in refused(capsys, "publish", checkpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_visitor")
    assert "You may not write to maker/eyes" in refused(capsys, "publish", checkpoint, REPO)
    loopback.stop()
    assert "The Hub cannot be reached" in refused(capsys, "publish", checkpoint, REPO)


def test_info_describes_a_model_on_the_hub_without_its_weights(loopback, checkpoint, capsys):
    hub.publish(checkpoint, REPO, token="hf_maker")
    loopback.clear()
    facts = told(capsys, REPO)
    count = sum(parameter.numel() for parameter in tiny_pipeline().generator_model.parameters())
    assert facts == {
        "model": REPO,
        "class": "StyleGAN2Generator",
        "parameters": f"{count:,}",
        "resolution": "16 px",
        "title": "eyes",
        "licence": "apache-2.0",
    }
    assert not [request for request in loopback.requests if request.path.endswith(".safetensors")]
    with pytest.raises(hub.UnreachableError):  # and this is no checkpoint that could be opened later
        hub.pull(REPO, local_files_only=True)
    hub.pull(REPO)
    loopback.stop()
    assert told(capsys, REPO) == facts


def test_info_describes_an_adapter(loopback, adapter, capsys):
    hub.publish(adapter, REPO, token="hf_maker")
    for place in (REPO, adapter):
        facts = told(capsys, place)
        assert facts["class"] == "adapter for a StyleGAN2Generator" and facts["base"] == "not named"
        assert int(facts["changes"].removesuffix(" tensors")) > 5


def test_info_tells_how_often_orders_come(tmp_path, capsys):
    config = {"resolution": 32, "max_order": 4, "order_probs": [0.5, 0.0, 0.25, 0.25], "num_masks": 6}
    (tmp_path / "generator_model").mkdir()
    index = {"generator_model": ["modeling_radial", "RadialGenerator"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "generator_model" / "config.json").write_text(json.dumps(config))
    facts = told(capsys, tmp_path)
    assert facts["model"] == tmp_path.name
    assert facts["resolution"] == "32 px, or any other"
    assert (facts["orders"], facts["order mix"], facts["masks"]) == ("1 to 4", "1: 50%, 3: 25%, 4: 25%", "6")


def test_a_strangers_card_does_not_steer_the_terminal(checkpoint, capsys):
    card = "---\nlicense: '<b>mit</b>'\n---\n\nText\n\n# Eyes of\x1b[31m [fire](https://evil.example)\n\n# Second\n"
    (checkpoint / "README.md").write_text(card)
    facts = told(capsys, checkpoint)
    assert (facts["title"], facts["licence"]) == ("Eyes of(31m (fire)(https evil.example)", "mit")


def test_a_card_of_a_few_lines_that_stand_for_millions_is_not_unfolded(checkpoint, capsys):
    lines = ["a0: &a0 x"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 8)]
    (checkpoint / "README.md").write_text("\n".join(["---", *lines, "license: *a7", "---", "# Eyes"]))
    facts = told(capsys, checkpoint)
    assert facts["title"] == "Eyes" and "licence" not in facts


def test_a_card_that_is_a_link_to_another_file_is_not_read(checkpoint, tmp_path, capsys):
    (tmp_path / "secret.md").write_text("# Secret\n")
    (checkpoint / "README.md").symlink_to(tmp_path / "secret.md")
    assert "title" not in told(capsys, checkpoint)


@pytest.mark.parametrize("card", [None, "no front matter", "---\n[broken: {yaml\n---\n# T\n", "---\n- list\n---\n"])
def test_info_does_without_a_card(checkpoint, capsys, card):
    if card is not None:
        (checkpoint / "README.md").write_text(card)
    facts = told(capsys, checkpoint)
    assert "parameters" in facts and "licence" not in facts


def test_info_without_a_name_is_about_the_model_in_the_package(capsys):
    facts = told(capsys)
    assert (facts["model"], facts["class"]) == ("embedded", "RadialGenerator")


def test_info_of_what_is_not_there_is_one_sentence(loopback, checkpoint, capsys, tmp_path):
    assert "There is no model maker/none on the Hub" in refused(capsys, "info", "maker/none")
    assert "is neither a folder that exists nor a Hub id" in refused(capsys, "info", tmp_path / "gone")
    loopback.add(REPO, files_of(checkpoint) | {"model_index.json": b"[1]"})
    assert "model_index.json" in refused(capsys, "info", REPO)


def test_a_mistake_costs_no_heavy_import():
    code = "import sys; from sharingan_hub.cli import main\ntry: main(['publish', '--help'])\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules, 'huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False False", done.stderr
