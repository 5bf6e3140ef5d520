"""What a card or a published report tells of places on its maker's disk."""

from sharingan_hub import hub
from sharingan_hub.cards import public_report, told_name


def test_what_others_are_told_of_a_folder_is_its_last_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user" / "mine").mkdir(parents=True)
    assert told_name("user/mine") == "mine" and told_name("user/other") == "user/other"
    assert (
        told_name(str(hub.DEFAULT))
        == told_name("/elsewhere/sharingan_hub/embedded/default")
        == "sharingan_hub/embedded/default"
    )
    assert told_name("/home/me/pictures/") == told_name(r"C:\me\pictures") == "pictures"
    assert told_name("emblems:source") == "emblems:source" and told_name("") == ""
    monkeypatch.chdir(tmp_path / "user" / "mine")
    assert told_name("..") == "user"


def test_a_public_report_names_no_place_on_the_makers_disk():
    report = {
        "minutes": 3,
        "recipe": {
            "base_model": "/home/me/runs/first",
            "output_dir": "runs/x",
            "train_data": "~/eyes",
            "more": ["/a/b", 3],
        },
    }
    assert public_report(report) == {
        "minutes": 3,
        "recipe": {"base_model": "first", "output_dir": "runs/x", "train_data": "eyes", "more": ["b", 3]},
    }
