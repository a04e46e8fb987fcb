"Charts and pictures: colours that stay with a method, honest error bars, text that can be read."

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import LineCollection

from masktune.plots.charts import (
    METHOD_COLORS,
    assign_colors,
    plot_bars,
    plot_curves,
)
from masktune.plots.images import (
    overlay_heatmap,
    overlay_mask,
    plot_grid,
    plot_rows,
)
from masktune.plots.images import to_rgb


def measured(methods, seeds):
    rows = [
        dict(method=m, a=50 + s + i, **dict.fromkeys("bcdef", 90 - s))
        for i, m in enumerate(methods)
        for s in range(seeds)
    ]
    return pd.DataFrame(rows)


def pixels_on_the_page(figure):
    "Heights of all texts in pixels, where the figure is shown 750 px wide"
    figure.canvas.draw()
    scale = 750 / (72 * figure.get_size_inches()[0])
    texts = [t for t in figure.findobj(lambda a: hasattr(a, "get_fontsize"))]
    return {t.get_text(): t.get_fontsize() * scale for t in texts if t.get_text()}


@pytest.mark.parametrize("n_methods", [1, 2, 5, 6, 12])
@pytest.mark.parametrize("columns", [["a"], ["a", "b"], list("abcdef")])
def test_labels_of_bars_can_be_read(n_methods, columns):
    table = measured([f"method {i}" for i in range(n_methods)], 2)
    heights = pixels_on_the_page(plot_bars(table, columns))
    assert len(heights) > n_methods and min(heights.values()) > 8.99, heights


@pytest.mark.parametrize("columns", [1, 4, 10, 16])
def test_labels_of_pictures_can_be_read(columns):
    image = torch.zeros(3, 8, 8)
    grid = plot_grid([image] * columns, ["caption"] * columns, columns=columns)
    names = [f"c{i}" for i in range(columns)]
    rows = plot_rows(
        {n: [image] for n in names}, {n: ["✗ wrong"] for n in names}, ["label"]
    )
    for figure in (grid, rows):
        heights = pixels_on_the_page(figure)
        assert heights and min(heights.values()) > 8.99, heights


def test_labels_of_curves_can_be_read():
    heights = pixels_on_the_page(plot_curves({"a": [1, 2], "b": [2, 1]}))
    assert min(heights.values()) > 8.99, heights


def bar_colors(figure):
    return {c.get_label(): c[0].get_facecolor() for c in figure.axes[0].containers}


def test_a_method_keeps_its_color():
    "ERM alone, ERM second, ERM among many: one colour, and no other bar has it"
    from matplotlib.colors import to_rgba

    for methods in (["ERM"], ["mine", "ERM"], [*METHOD_COLORS, "mine"]):
        colors = assign_colors(methods)
        assert colors["ERM"] == METHOD_COLORS["ERM"]
        assert len(set(colors.values())) == len(methods)
    figure = plot_bars(measured(["mine", "MaskTune", "ERM"], 1), ["a"])
    drawn = [patch.get_facecolor() for patch in figure.axes[0].patches]
    expected = [
        assign_colors(["mine", "MaskTune", "ERM"])[m]
        for m in ("mine", "MaskTune", "ERM")
    ]
    assert drawn == [to_rgba(c) for c in expected]
    curve = plot_curves({"mine": [1, 2], "ERM": [1, 2]}).axes[0].lines[1]
    assert curve.get_color() == METHOD_COLORS["ERM"]


def whiskers(figure):
    return sum(
        isinstance(c, LineCollection) for ax in figure.axes for c in ax.collections
    )


@pytest.mark.parametrize("n_methods", [2, 7])
def test_one_seed_draws_no_error_bar(n_methods):
    methods = [f"method {i}" for i in range(n_methods)]
    assert whiskers(plot_bars(measured(methods, 1), ["a", "b"])) == 0
    assert whiskers(plot_bars(measured(methods, 3), ["a", "b"])) == 2 * n_methods


@pytest.mark.parametrize("n_methods", [2, 7])
def test_bars_are_means_and_dots_are_measurements(n_methods):
    "Lying or standing: the same lengths, the same dots"
    methods = [f"method {i}" for i in range(n_methods)]
    figure = plot_bars(measured(methods, 3), ["a"])
    ax, lying = figure.axes[0], n_methods > 5
    lengths = [p.get_width() if lying else p.get_height() for p in ax.patches]
    assert lengths == [51 + i for i in range(n_methods)]
    dots = np.concatenate(
        [
            c.get_offsets()[:, 0 if lying else 1]
            for c in ax.collections
            if not isinstance(c, LineCollection)
        ]
    )
    assert sorted(dots) == sorted(
        50 + s + i for i in range(n_methods) for s in range(3)
    )


def test_negative_values_are_inside_the_chart():
    table = pd.DataFrame(dict(method=["a", "b"], gap=[-12.0, 3.0]))
    low, high = plot_bars(table, ["gap"]).axes[0].get_ylim()
    assert low <= -12 and high >= 3


def test_curves_past_the_eighth_are_dashed():
    lines = plot_curves({f"{i}": [i, i] for i in range(10)}).axes[0].lines
    looks = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(looks) == 10


def test_pictures_of_all_kinds_become_rgb():
    grey = torch.arange(12, dtype=torch.uint8).reshape(3, 4)
    expected = np.repeat((grey.numpy() / 255)[..., None], 3, 2)
    for image in (grey, grey[None], grey[None].repeat(3, 1, 1), grey.numpy()):
        assert np.allclose(to_rgb(image), expected)
    assert np.allclose(to_rgb(grey.float() / 255), expected)


def test_heat_and_masks_change_what_they_cover():
    image, heat = torch.full((3, 8, 8), 0.5), torch.zeros(4, 4)
    heat[0, 0] = 1
    hot = overlay_heatmap(image, heat)
    assert hot[0, 0].max() > hot[7, 7].max()
    assert np.allclose(hot[7, 7], 0.3), "no heat: the grey copy"
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2] = True
    painted = overlay_mask(image, mask)
    assert np.allclose(painted[2], (0, 0.45, 0.7)) and np.allclose(painted[3], 0.5)


def test_mistakes_are_red():
    figure = plot_rows(
        {"it": [torch.zeros(3, 4, 4)] * 2}, {"it": ["✓ right", "✗ wrong"]}
    )
    right, wrong = (ax.xaxis.label.get_color() for ax in figure.axes)
    assert right != wrong == "#B03000"


def test_nothing_is_drawn_for_a_mean_of_0():
    "Its number stands above the axis, in no box that would look like a column"
    table = pd.DataFrame(dict(method=["a", "b"], low=[0.0, 90.0]))
    ax = plot_bars(table, ["low"]).axes[0]
    none, high = ax.texts
    assert none.get_text() == "0" and none.get_bbox_patch() is None
    assert high.get_text() == "90" and high.xy[1] == 0
    assert [p.get_height() for p in ax.patches] == [0, 90]
