"The browser, driven as a person would"

import builtins

import pytest
import torch

from masktune.data.split import Split
from masktune.methods.spuriosity import Ranking
from masktune.models.zoo import create_model
from masktune.plots.browser import Browser


@pytest.fixture(scope="module")
def split():
    images = torch.randint(
        256,
        (23, 3, 28, 28),
        generator=torch.Generator().manual_seed(0),
        dtype=torch.uint8,
    )
    return Split.from_tensors(
        images,
        torch.arange(23) % 2,
        torch.arange(23) % 3,
        ids=[f"photos/{i}.jpg" for i in range(23)],
        class_names=["cat", "dog"],
        group_names=["a", "b", "c"],
    )


@pytest.fixture(scope="module")
def browser(split):
    ranking = Ranking(torch.arange(23.0), split, {0: [1]})
    return Browser(
        split,
        {
            "first": create_model("small_cnn", 2),
            "second": create_model("small_cnn", 2, seed=1),
        },
        ranking,
        n=3,
    )


def test_orders_hold_the_right_images_in_the_right_order(browser, split):
    o = browser.orders
    assert list(o) == [
        "a",
        "b",
        "c",
        "mistakes of first",
        "mistakes of second",
        "cat, most spurious first",
    ]
    assert o["b"].tolist() == list(range(1, 23, 3)) and o[
        "cat, most spurious first"
    ].tolist() == list(range(22, -1, -2))
    assert o["mistakes of first"].tolist() == [
        i for i in range(23) if not browser.predictions["first"].correct[i]
    ]


def test_without_groups_the_classes_are_stepped_through(split):
    bare = Browser(
        Split.from_tensors(split.images, split.labels, class_names=["cat", "dog"]),
        {"only": create_model("small_cnn", 2)},
    )
    assert (
        list(bare.orders)[:2] == ["cat", "dog"]
        and len(bare.page("dog").axes) == 4 * 3
    )


def test_a_page_says_what_the_networks_say(browser):
    figure = browser.page(
        "cat, most spurious first", browser.pages("cat, most spurious first") - 1
    )
    texts = [a.get_xlabel() for a in figure.axes]
    shown = browser.orders["cat, most spurious first"][-3:]
    assert len(figure.axes) == 4 * len(shown)
    for row, i in enumerate(shown.tolist()):
        p = browser.predictions["second"]
        assert (
            texts[4 * row + 3].startswith("✓" if p.correct[i] else "✗")
            and p.class_names[p.predicted[i]] in texts[4 * row + 3]
        )


def test_every_control_draws_another_picture(browser):
    pytest.importorskip("ipywidgets")
    order, number, k, image = browser.widget().children
    seen = [bytes(image.value)]
    for control, value in (
        (number, 1),
        (k, 0.5),
        (order, "b"),
        (number, 2),
        (order, "cat, most spurious first"),
    ):
        control.value = value
        seen.append(bytes(image.value))
    assert len(set(seen)) == len(seen) and all(
        png.startswith(b"\x89PNG") for png in seen
    )
    assert (
        number.value == 0
        and number.max == browser.pages("cat, most spurious first") - 1
    )


def test_what_it_refuses(browser, split):
    with pytest.raises(ValueError, match="Did you mean 'cat, most spurious first'"):
        browser.page("cat, most spurious")
    with pytest.raises(ValueError, match="pages 0 to 2, not 3"):
        browser.page("a", 3)
    with pytest.raises(ValueError, match="at least one network"):
        Browser(split, {})
    with pytest.raises(ValueError, match="rank the split that is shown"):
        Browser(
            split.subset(range(5)),
            {"first": create_model("small_cnn", 2)},
            browser.ranking,
        )


def test_without_ipywidgets_the_error_says_how(browser, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kw):
        if name == "ipywidgets":
            raise ImportError(name)
        return real(name, *args, **kw)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install masktune\[browser\].*page"):
        browser.widget()
