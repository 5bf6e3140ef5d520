import pytest

from sharingan_hub.cards import figure, metrics_table


@pytest.mark.parametrize(
    ("estimate", "shown"),
    [
        ([12.3456, 0.123], "12.35 ± 0.12"),
        ([12.3456, 3.2], "12 ± 3"),
        ([0.98765, 0.0123], "0.988 ± 0.012"),
        ([1.0, 0.0], "1"),
        ([0.25, None], "0.25"),
        ([None, None], "–"),
        (None, "–"),
    ],
)
def test_a_figure_has_the_digits_that_its_error_allows(estimate, shown):
    assert figure(estimate) == shown


def test_the_table_says_what_was_measured_and_leaves_out_what_was_not():
    rows = {"this model": {"kid": [1.25, 0.1], "symmetry": [0.9, 0.01]}, "true draws": {"kid": [0.0, 0.1]}}
    evaluation = {
        "features": "domain",
        "samples": 2000,
        "seeds": [0, 1999],
        "truncation_psi": 1.0,
        "reference": "emblems:sharingan",
        "reference_samples": 10_000,
        "rows": rows,
    }
    table = metrics_table(evaluation)
    assert "| KID | 1.25 ± 0.10 | 0.00 ± 0.10 |" in table
    assert "| rotational symmetry | 0.900 ± 0.010 | – |" in table
    assert "recall" not in table
    assert (
        "2,000 pictures (seeds 0 to 1999, truncation psi 1) against 10,000 unseen draws of emblems:sharingan" in table
    )
    assert "against" not in metrics_table(evaluation | {"reference": None})
