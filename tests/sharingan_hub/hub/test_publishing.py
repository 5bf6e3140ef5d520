"""Publishing to a Hub on this machine by the real client: what goes there, what does not, and what an author is told."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from sharingan_hub import SharinganPipeline, hub
from sharingan_hub.hub import publishing

from ..conftest import files_of, tiny_pipeline

REPO = "maker/eyes"
WEIGHTS = "generator_model/diffusion_pytorch_model.safetensors"


def picture(pipe: SharinganPipeline) -> torch.Tensor:
    return pipe(seeds=[1, 2], output_type="pt").images


def kinds(loopback) -> list[str]:
    """Methods of the requests that change something."""
    return [request.method for request in loopback.requests if request.method == "PUT" or "/commit/" in request.path]


def test_what_is_published_comes_back_bit_for_bit(loopback, checkpoint):
    done = hub.publish(checkpoint, REPO, token="hf_maker")
    repo = loopback.repos[REPO]
    assert done.sha == repo.head.sha and done.url == f"{loopback.endpoint}/{REPO}/commit/{done.sha}"
    assert not repo.private
    assert torch.equal(picture(SharinganPipeline.from_pretrained(REPO)), picture(tiny_pipeline()))
    local = files_of(checkpoint)
    assert {name: content for name, content in repo.files.items() if name != "README.md"} == local


def test_a_pipeline_is_published_like_its_folder(loopback):
    hub.publish(tiny_pipeline(3), REPO, token="hf_maker", commit_message="Third try")
    assert loopback.repos[REPO].head.title == "Third try"
    assert torch.equal(picture(SharinganPipeline.from_pretrained(REPO)), picture(tiny_pipeline(3)))


def test_only_files_of_a_checkpoint_are_published(loopback, checkpoint):
    belongs = files_of(checkpoint).keys() | {"README.md"}
    for name in (
        "checkpoints/step-10/optimizer.bin",
        "generator_model/pytorch_model.bin",
        "generator_model/.config.json.swp",
        "model.pkl",
        ".env",
        "samples/.grid.png",
        "samples/raw.tiff",
        "samples/deep/grid.png",
        "logs/events.out.tfevents",
        "notes.txt",
    ):
        (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
        (checkpoint / name).write_bytes(b"secret")
    hub.publish(checkpoint, REPO, token="hf_maker")
    assert loopback.repos[REPO].files.keys() == belongs
    assert not [request for request in loopback.requests if b"secret" in request.body]


@pytest.mark.parametrize("name", ["README.md", "samples/grid.png", "samples", "pipeline.py"])
def test_a_link_that_leads_out_of_the_folder_is_not_published(loopback, checkpoint, tmp_path, name):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "grid.png").write_bytes(b"secret")
    if name == "samples":
        shutil.rmtree(checkpoint / name)
    (checkpoint / name).unlink(missing_ok=True)
    (checkpoint / name).symlink_to(secret if name == "samples" else secret / "grid.png")
    with pytest.raises(hub.CheckpointError, match="is a link that leads out of its folder, and is not followed"):
        hub.publish(checkpoint, REPO, token="hf_maker")
    assert loopback.requests == []


def test_an_adapter_is_published_and_pulled(loopback, adapter):
    hub.publish(adapter, REPO, token="hf_maker")
    assert loopback.repos[REPO].files.keys() == {"adapter_config.json", "adapter.safetensors", "README.md"}
    pipe = tiny_pipeline(0)
    pipe.load_adapter(hub.pull(REPO))
    assert torch.allclose(picture(pipe), picture(tiny_pipeline(1)), atol=0.02)


def test_publishing_again_what_has_not_changed_makes_no_commit_and_sends_little(loopback, tmp_path):
    large = tiny_pipeline().generator_model
    large = type(large)(z_dim=64, w_dim=64, resolution=16, mapping_layers=2, channel_base=1024, channel_max=64).eval()
    SharinganPipeline(large).save_pretrained(tmp_path / "large")
    assert (tmp_path / "large" / WEIGHTS).stat().st_size > 500_000
    first = hub.publish(tmp_path / "large", REPO, token="hf_maker")
    loopback.clear()
    assert hub.publish(tmp_path / "large", REPO, token="hf_maker") == first
    assert kinds(loopback) == []
    assert loopback.transferred < 100_000
    assert len(loopback.repos[REPO].history) == 2


def test_weights_that_have_not_changed_are_not_sent_again(loopback, checkpoint):
    hub.publish(checkpoint, REPO, token="hf_maker")
    (checkpoint / "samples" / "seed7.png").write_bytes(b"another")
    loopback.clear()
    hub.publish(checkpoint, REPO, token="hf_maker")
    assert len(kinds(loopback)) == 1
    sent = [json.loads(line) for line in loopback.requests[-1].body.splitlines()][1:]
    assert [line["value"]["path"] for line in sent] == ["samples/seed7.png"]


def test_files_that_are_gone_are_deleted_in_the_same_commit_and_others_stay(loopback, checkpoints):
    hub.publish(checkpoints / "old", REPO, token="hf_maker")
    loopback.add(REPO, loopback.repos[REPO].files | {"paper.pdf": b"paper", "samples/notes.txt": b"notes"})
    loopback.clear()
    hub.publish(checkpoints / "new", REPO, token="hf_maker")
    names = files_of(checkpoints / "new").keys() | {"README.md", "paper.pdf", "samples/notes.txt"}
    assert loopback.repos[REPO].files.keys() == names
    assert len([request for request in loopback.requests if "/commit/" in request.path]) == 1


def test_what_the_owner_writes_into_the_card_on_the_hub_stays(loopback, checkpoint):
    hub.publish(checkpoint, REPO, token="hf_maker")
    files = loopback.repos[REPO].files
    assert files["README.md"].strip()
    loopback.add(REPO, files | {"README.md": files["README.md"] + b"\n## Thanks\n\nTo my cat.\n"})
    (checkpoint / "samples" / "seed7.png").write_bytes(b"another")
    hub.publish(checkpoint, REPO, token="hf_maker")
    assert b"To my cat." in loopback.repos[REPO].files["README.md"]


def test_the_report_says_nothing_of_the_machine(loopback, checkpoint):
    (checkpoint / "report.json").write_text(json.dumps({"steps": 10, "recipe": {"train_data": "/home/me/secret/15"}}))
    hub.publish(checkpoint, REPO, token="hf_maker")
    files = loopback.repos[REPO].files
    assert json.loads(files["report.json"])["steps"] == 10
    assert not [name for name, content in files.items() if b"/home/me" in content]


def test_a_name_alone_is_one_of_your_own_repositories(loopback, checkpoint):
    hub.publish(checkpoint, "eyes", token="hf_maker")
    assert REPO in loopback.repos


def test_a_private_repository_is_private_from_the_start(loopback, checkpoint):
    hub.publish(checkpoint, REPO, private=True, token="hf_maker")
    assert loopback.repos[REPO].private
    hub.publish(checkpoint, REPO, token="hf_maker")
    assert loopback.repos[REPO].private


def test_what_is_to_be_private_does_not_go_to_a_public_repository(loopback, checkpoint):
    loopback.add(REPO, {"README.md": b"public"})
    with pytest.raises(hub.AccessError, match="maker/eyes is there and public: make it private in its settings"):
        hub.publish(checkpoint, REPO, private=True, token="hf_maker")
    assert loopback.repos[REPO].files == {"README.md": b"public"}


def test_a_branch_is_made_where_it_is_missing(loopback, checkpoints):
    hub.publish(checkpoints / "old", REPO, token="hf_maker")
    main = loopback.repos[REPO].head
    done = hub.publish(checkpoints / "new", REPO, revision="v2", token="hf_maker")
    assert loopback.repos[REPO].head == main
    assert loopback.repos[REPO].refs["v2"] == done.sha
    pipe = SharinganPipeline.from_pretrained(REPO, revision="v2")
    assert torch.equal(picture(pipe), picture(tiny_pipeline(1)))
    hub.publish(checkpoints / "new", "maker/fresh", revision="v2", token="hf_maker")
    assert loopback.repos["maker/fresh"].files == {}


def test_a_pull_request_changes_nothing_until_it_is_merged(loopback, checkpoints):
    hub.publish(checkpoints / "old", REPO, token="hf_maker")
    main = loopback.repos[REPO].head
    done = hub.publish(checkpoints / "new", REPO, create_pr=True, token="hf_visitor")
    assert done.url == f"{loopback.endpoint}/{REPO}/discussions/1"
    assert loopback.repos[REPO].head == main
    assert hub.pull(REPO, revision="refs/pr/1").name == done.sha
    with pytest.raises(hub.RepositoryError, match="There is no model maker/none"):
        hub.publish(checkpoints / "new", "maker/none", create_pr=True, token="hf_visitor")
    with pytest.raises(ValueError, match="create_pr and revision 'v2' were both given"):
        hub.publish(checkpoints / "new", REPO, create_pr=True, revision="v2", token="hf_visitor")


# Two at once


def test_a_commit_that_comes_between_is_built_upon_and_not_mixed_with(loopback, checkpoints):
    hub.publish(checkpoints / "old", REPO, token="hf_maker")

    def others_commit(request) -> bool:
        if "/commit/" in request.path and len(loopback.repos[REPO].history) == 2:
            loopback.add(REPO, loopback.repos[REPO].files | {"samples/theirs.png": b"x", "paper.pdf": b"paper"})
        return False

    loopback.fail("drop", others_commit)
    hub.publish(checkpoints / "new", REPO, token="hf_maker")
    assert loopback.repos[REPO].files.keys() == files_of(checkpoints / "new").keys() | {"README.md", "paper.pdf"}
    assert len(loopback.repos[REPO].history) == 4


def test_an_author_who_never_gets_a_turn_is_told(loopback, checkpoints):
    hub.publish(checkpoints / "old", REPO, token="hf_maker")

    def others_commit(request) -> bool:
        if "/commit/" in request.path:
            loopback.add(REPO, loopback.repos[REPO].files | {"paper.pdf": bytes([request.number])})
        return False

    loopback.fail("drop", others_commit)
    with pytest.raises(hub.ConflictError, match="Others keep changing maker/eyes: try again later"):
        hub.publish(checkpoints / "new", REPO, token="hf_maker")
    assert loopback.repos[REPO].files[WEIGHTS] == (checkpoints / "old" / WEIGHTS).read_bytes()


def test_two_publishers_at_once_leave_the_checkpoint_of_one(loopback, checkpoints):
    start = Barrier(2)

    def publish(name: str) -> hub.Published:
        start.wait()
        return hub.publish(checkpoints / name, REPO, token="hf_maker")

    for _ in range(5):
        loopback.repos.clear()
        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(publish, ("old", "new")))
        repo = loopback.repos[REPO]
        states = [{name: file.data for name, file in revision.files.items()} for revision in repo.history[1:]]
        wanted = [files_of(checkpoints / name) for name in ("old", "new")]
        for state in states:
            del state[".gitattributes"], state["README.md"]
            assert state in wanted
        assert {entry.sha for entry in done} == {revision.sha for revision in repo.history[1:]}


# What goes wrong


@pytest.mark.parametrize(
    ("repo_id", "token", "error", "message"),
    [
        (REPO, None, hub.AccessError, "does not know you: log in with `hf auth login`, or give a token that is valid"),
        (REPO, "hf_wrong", hub.AccessError, "The Hub does not know you"),
        (REPO, "hf_reader", hub.AccessError, "You may not write to maker/eyes: use a token with write access"),
        ("visitor/eyes", "hf_maker", hub.AccessError, "You may not write to visitor/eyes"),
        ("eyes", None, hub.AccessError, "The Hub does not know you"),
        ("maker/-eyes", "hf_maker", hub.RepositoryError, "'maker/-eyes' is no Hub id; one looks like 'user/name'"),
        ("a/b/c", "hf_maker", hub.RepositoryError, "'a/b/c' is no Hub id"),
    ],
)
def test_who_may_not_publish_is_told_what_to_do(loopback, checkpoint, repo_id, token, error, message):
    with pytest.raises(error, match=message) as caught:
        hub.publish(checkpoint, repo_id, token=token)
    assert "\n" not in str(caught.value)
    assert loopback.repos == {}


def test_a_stranger_may_not_overwrite(loopback, checkpoints):
    hub.publish(checkpoints / "old", REPO, token="hf_maker")
    with pytest.raises(hub.AccessError, match="or propose it as a pull request"):
        hub.publish(checkpoints / "new", REPO, token="hf_visitor")
    assert loopback.repos[REPO].files[WEIGHTS] == (checkpoints / "old" / WEIGHTS).read_bytes()


def test_a_folder_that_nobody_could_open_is_refused_before_the_hub_is_asked(loopback, checkpoint, tmp_path):
    (checkpoint / WEIGHTS).write_bytes((checkpoint / WEIGHTS).read_bytes()[:-4])
    with pytest.raises(hub.CheckpointError):
        hub.publish(checkpoint, REPO, token="hf_maker")
    with pytest.raises(hub.CheckpointError):
        hub.publish(tmp_path, REPO, token="hf_maker")
    with pytest.raises(hub.CheckpointError, match="gone' is no folder that exists"):
        hub.publish(tmp_path / "gone", REPO, token="hf_maker")
    with pytest.raises(TypeError, match="folder_or_pipe is a int; it must be a folder or a SharinganPipeline"):
        hub.publish(7, REPO, token="hf_maker")
    assert loopback.requests == []


def test_what_the_owner_writes_into_the_card_at_home_is_published(loopback, checkpoint):
    hub.publish(checkpoint, REPO, token="hf_maker")
    (checkpoint / "README.md").write_bytes(loopback.repos[REPO].files["README.md"] + b"\n## Thanks\n\nTo my dog.\n")
    hub.publish(checkpoint, REPO, token="hf_maker")
    assert b"To my dog." in loopback.repos[REPO].files["README.md"]


def test_edits_on_the_hub_go_before_edits_at_home(loopback, checkpoint):
    hub.publish(checkpoint, REPO, token="hf_maker")
    files = loopback.repos[REPO].files
    home = files["README.md"].replace(b"## Limits", b"## My limits")
    (checkpoint / "README.md").write_bytes(home)
    loopback.add(REPO, files | {"README.md": files["README.md"] + b"\nTo my cat.\n"})
    hub.publish(checkpoint, REPO, token="hf_maker")
    text = loopback.repos[REPO].files["README.md"]
    assert b"To my cat." in text and b"## My limits" in text


def test_a_card_never_comes_out_blank(loopback, checkpoint, monkeypatch):
    monkeypatch.setattr("sharingan_hub.cards.update_card", lambda new, previous: " \n")
    with pytest.raises(hub.CheckpointError, match="The model card came out blank"):
        hub.publish(checkpoint, REPO, token="hf_maker")
    assert loopback.repos[REPO].files == {}


def test_rate_limits_are_not_sat_out(loopback, checkpoint):
    loopback.fail("429", lambda request: "preupload" in request.path, times=1000)
    with pytest.raises(hub.RateLimitError, match="too many requests from here: try again in 55 seconds"):
        hub.publish(checkpoint, REPO, token="hf_maker")
    assert len([request for request in loopback.requests if "preupload" in request.path]) == 1


def test_an_answer_that_was_lost_does_not_make_a_second_commit(loopback, checkpoint):
    loopback.fail("lost", lambda request: "/commit/" in request.path)
    done = hub.publish(checkpoint, REPO, token="hf_maker")
    assert done.sha == loopback.repos[REPO].head.sha
    assert len(loopback.repos[REPO].history) == 2


def test_a_pull_request_whose_answer_was_lost_is_not_made_twice(loopback, checkpoints):
    hub.publish(checkpoints / "old", REPO, token="hf_maker")
    loopback.fail("lost", lambda request: "/commit/" in request.path)
    with pytest.raises(hub.UnreachableError, match="unless the pull request is there already: see .*/discussions"):
        hub.publish(checkpoints / "new", REPO, create_pr=True, token="hf_visitor")
    assert [ref for ref in loopback.repos[REPO].refs if "pr" in ref] == ["refs/pr/1"]


def test_a_hub_that_is_down_is_told_at_once_and_one_that_hangs_soon(loopback, checkpoint, monkeypatch):
    monkeypatch.setattr(publishing, "TIMEOUT", 0.2)
    monkeypatch.setattr(publishing, "PUBLISH_TIMEOUT", 0.2)
    loopback.fail("delay", times=1000)
    with pytest.raises(hub.UnreachableError, match="The Hub cannot be reached .*: try again later"):
        hub.publish(checkpoint, REPO, token="hf_maker")
    assert len(loopback.requests) == 1
    loopback.stop()
    with pytest.raises(hub.UnreachableError, match="The Hub cannot be reached .*ConnectError"):
        hub.publish(checkpoint, REPO, token="hf_maker")


def test_a_head_of_the_card_that_the_hub_does_not_take_is_named(loopback, checkpoint, monkeypatch):
    monkeypatch.setattr("sharingan_hub.cards.update_card", lambda new, previous: "---\ntags: [\n---\nwords")
    with pytest.raises(hub.RejectedError, match="The Hub does not accept the head of README.md"):
        hub.publish(checkpoint, REPO, token="hf_maker")


def test_a_pulled_checkpoint_can_be_published_again_elsewhere(loopback, checkpoint, tmp_path):
    hub.publish(checkpoint, REPO, token="hf_maker")
    hub.publish(hub.pull(REPO), "visitor/eyes", token="hf_visitor")
    copy = loopback.repos["visitor/eyes"].files
    assert copy[WEIGHTS] == (checkpoint / WEIGHTS).read_bytes()
    shutil.rmtree(tmp_path / "hub_cache")
    assert torch.equal(picture(SharinganPipeline.from_pretrained("visitor/eyes")), picture(tiny_pipeline()))
