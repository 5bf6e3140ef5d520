import pytest

from sharingan_hub import RadialGenerator
from training.adapt import freeze_parts


@pytest.fixture
def generator() -> RadialGenerator:
    return RadialGenerator(z_dim=8, w_dim=8, channels=(8,), base_radius=4, base_angle=8)


def test_the_named_parts_stop_training_and_the_others_go_on(generator):
    freeze_parts(generator, ["fc", "convs"])
    frozen = {name.partition(".")[0] for name, weight in generator.named_parameters() if not weight.requires_grad}
    trained = {name.partition(".")[0] for name, weight in generator.named_parameters() if weight.requires_grad}
    assert frozen == {"fc", "convs"}
    assert {"palette_head", "heads", "round_head", "const"} <= trained


@pytest.mark.parametrize("beginnings, told", [(["palete"], "'palete'.*palette_head"), ([""], "nothing to train")])
def test_a_slip_is_told(generator, beginnings, told):
    with pytest.raises(ValueError, match=told):
        freeze_parts(generator, beginnings)
