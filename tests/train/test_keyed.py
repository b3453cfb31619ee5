"""Keyed draws: orders are permutations, streams do not depend on one another."""

import numpy as np
import pytest

from sky4.train.keyed import generator, permuted


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 17, 100, 1000])
def test_each_epoch_visits_every_item_once(count: int) -> None:
    order = permuted(np.arange(3 * count), count, 5, "clips").reshape(3, count)
    assert (np.sort(order, axis=1) == np.arange(count)).all()


def test_epochs_and_seeds_and_purposes_have_orders_of_their_own() -> None:
    places = np.arange(400)
    first = permuted(places, 200, 1, "clips")
    assert (first[:200] != first[200:]).any()
    assert (first != permuted(places, 200, 2, "clips")).any()
    assert (first != permuted(places, 200, 1, "images")).any()


def test_an_item_is_a_function_of_its_place_alone() -> None:
    whole = permuted(np.arange(300), 90, 1, "clips")
    pieces = [permuted(np.arange(start, start + 7), 90, 1, "clips") for start in range(0, 294, 7)]
    assert (np.concatenate(pieces) == whole[:294]).all()


def test_an_order_looks_random() -> None:
    """Neighbours in the order are no neighbours in the data: rank correlation and fixed points as by chance."""
    order = permuted(np.arange(4096), 4096, 3, "clips")
    assert abs(np.corrcoef(np.arange(4096), order)[0, 1]) < 0.06
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.06
    assert (order == np.arange(4096)).sum() < 8


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValueError, match="something to permute"):
        permuted(np.arange(3), 0, 1, "clips")


def test_streams_differ_by_seed_purpose_and_number() -> None:
    keys = [(1, "time", 0), (1, "time", 1), (1, "caption", 0), (2, "time", 0)]
    draws = {generator(*key).random() for key in keys}
    assert len(draws) == len(keys)
    assert generator(1, "time", 5).random() == generator(1, "time", 5).random()
