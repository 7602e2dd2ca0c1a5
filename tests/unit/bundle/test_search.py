"""The intent door: words and constraints to a ranked list of scenarios."""

from __future__ import annotations

import pytest

from tests.support.shop_bundle import FILES, shop


def names(words: str = "", **constraints: str) -> list[str]:
    return [match.scenario.name for match in shop().search(words.split(), constraints)]


class TestWords:
    @pytest.mark.parametrize(
        ("words", "first"),
        [
            ("the first purchase of an active customer", "first_purchase"),
            ("paid", "open_and_paid"),
            ("a closed customer who is still buying", "closed_but_buying"),
            ("basket", "first_purchase"),
            ("baskets", "first_purchase"),
            ("SHOP-1", "first_purchase"),
            ("shop-1", "first_purchase"),
            ("bask", "first_purchase"),
            ("paiid", "open_and_paid"),
        ],
    )
    def test_the_best_fit_comes_first(self, words: str, first: str) -> None:
        assert names(words)[0] == first

    def test_scenarios_without_any_of_the_words_are_dropped(self) -> None:
        assert names("basket") == ["first_purchase"]
        assert names("quantum chromodynamics") == []

    def test_requirement_ids_are_looked_up_whole(self) -> None:
        assert names("SHOP-2") == []

    def test_no_words_lists_everything_by_name(self) -> None:
        assert names() == ["closed_but_buying", "first_purchase", "open_and_paid"]

    def test_it_says_why_in_the_words_that_were_given(self) -> None:
        (match,) = shop().search(["Baskets"], {})
        assert match.why == "baskets in tag"

    def test_the_same_question_has_the_same_answer(self) -> None:
        found = [
            [(m.scenario.key, m.score, m.why) for m in shop().search(["open", "customer"], {})]
            for _ in range(3)
        ]
        assert found[0] == found[1] == found[2]


class TestConstraints:
    def test_what_has_it_comes_before_what_can_take_it(self) -> None:
        assert names(purchase_state="paid") == [
            "open_and_paid",
            "closed_but_buying",
            "first_purchase",
        ]
        assert names(customer_status="closed")[0] == "closed_but_buying"

    def test_what_has_it_fixed_otherwise_is_dropped(self) -> None:
        text = FILES["shop/first_purchase.yaml"].replace(
            "count: 1", "count: 1, with: {purchase_state: lost}"
        )
        matches = shop({"shop/first_purchase.yaml": text}).search([], {"purchase_state": "paid"})
        assert "first_purchase" not in [match.scenario.name for match in matches]

    def test_unknown_names_and_values_fit_nothing(self) -> None:
        assert names(no_such="x") == []
        assert names(purchase_state="stolen") == []

    def test_values_are_typed(self) -> None:
        matches = shop().search([], {"vip": "no"})
        assert len(matches) == 3
        assert matches[0].why == "vip=false is its default"
