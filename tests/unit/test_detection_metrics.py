"""The figures of `semapi evaluate`, against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.cli.detection_metrics import THRESHOLDS, Box, Counts, count, iou, jaccard, overlaps, summarize

SQUARE = (0, 0, 10, 10)


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [
        (SQUARE, SQUARE, 1.0),
        (SQUARE, (5, 0, 15, 10), 50 / 150),
        (SQUARE, (0, 0, 5, 5), 25 / 100),
        (SQUARE, (10, 0, 20, 10), 0.0),  # they touch
        (SQUARE, (20, 20, 30, 30), 0.0),
        (SQUARE, (3, 3, 3, 8), 0.0),  # no area
        ((3, 3, 3, 3), (3, 3, 3, 3), 0.0),
    ],
)
def test_iou(first: Box, second: Box, value: float) -> None:
    assert iou(first, second) == iou(second, first) == pytest.approx(value)


@pytest.mark.parametrize(
    ("predicted", "true", "value"),
    [
        ([], [], 1.0),
        ([SQUARE], [], 0.0),
        ([], [SQUARE], 0.0),
        ([SQUARE], [SQUARE], 1.0),
        ([(0, 0, 5, 10), (5, 0, 10, 10)], [SQUARE], 1.0),  # two halves cover the whole
        ([SQUARE, SQUARE], [SQUARE], 1.0),  # a union counts each pixel once
        ([(0, 0, 10, 10)], [(5, 0, 15, 10)], 50 / 150),
        ([(-5, -5, 10, 10)], [SQUARE], 1.0),  # clipped on the left and at the top
        ([(15, 15, 99, 99)], [(15, 15, 20, 20)], 1.0),  # clipped on the right and at the bottom
        ([(0.9, 0.9, 10.9, 10.9)], [SQUARE], 1.0),  # whole pixels
        ([(25, 0, 35, 10)], [SQUARE], 0.0),  # outside the image: no pixel, 0 of 100
        ([(25, 0, 35, 10)], [], 0.0),  # clipped to the last column, 19 to 20
        ([(8, 8, 2, 2)], [], 1.0),  # upside down: no pixel
    ],
)
def test_jaccard_of_an_image_of_20_by_20(predicted: list[Box], true: list[Box], value: float) -> None:
    assert jaccard(predicted, true, 20, 20) == pytest.approx(value)


def test_the_averages_of_three_images() -> None:
    figures = summarize([1.0, 0.5, 0.0], [0, 3, 1])
    assert (figures.simple, figures.min, figures.max) == (0.5, 0.0, 1.0)
    assert figures.weighted == pytest.approx(1.5 / 4)
    assert summarize([1.0, 1.0], [0, 0]).weighted == 0.0


def test_an_overlap_counts_from_the_threshold_on() -> None:
    # 100 pixels against 50 of them: exactly 0.5
    counts = count([(0, 0, 10, 5)], [SQUARE])
    assert {at: one.tp for at, one in counts.items()} == {0.3: 1, 0.5: 1, 0.7: 0, 0.9: 0}
    assert counts[0.7] == Counts(tp=0, fp=1, fn=1)


def test_each_object_is_found_once() -> None:
    counts = count([SQUARE, (0, 0, 10, 9)], [SQUARE])
    assert counts[0.5] == Counts(tp=1, fp=1, fn=0)
    assert (counts[0.5].precision, counts[0.5].recall) == (0.5, 1.0)
    assert counts[0.5].f1 == pytest.approx(2 / 3)


def test_the_assignment_has_the_largest_sum_and_not_the_best_pair() -> None:
    # The first prediction fits both objects, the second only the first object. Taking the best pair first, the first
    # prediction with the first object (0.8), would leave the second prediction without any.
    predicted = [(0, 0, 10, 10), (0, 0, 5, 10)]
    true = [(0, 0, 8, 10), (2, 0, 12, 10)]
    fit = [[0.8, 8 / 12], [0.625, 3 / 12]]
    assert [[iou(one, other) for other in true] for one in predicted] == pytest.approx(np.array(fit))
    assert sorted(overlaps(predicted, true)) == pytest.approx(sorted([8 / 12, 0.625]))
    assert count(predicted, true)[0.5] == Counts(tp=2, fp=0, fn=0)


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [([], [], Counts(0, 0, 0)), ([SQUARE], [], Counts(0, 1, 0)), ([], [SQUARE, SQUARE], Counts(0, 0, 2))],
)
def test_nothing_predicted_or_nothing_there(predicted: list[Box], true: list[Box], expected: Counts) -> None:
    for counts in count(predicted, true).values():
        assert counts == expected
        assert (counts.precision, counts.recall, counts.f1) == (0, 0, 0)


def test_figures_are_of_the_sums_over_images() -> None:
    total = Counts(tp=3, fp=1, fn=0) + Counts(tp=0, fp=1, fn=3)
    assert (total.precision, total.recall) == (3 / 5, 3 / 6)
    assert total.f1 == pytest.approx(2 * 0.6 * 0.5 / 1.1)
    # the published figures of the source at 0.5
    published = Counts(tp=503, fp=40, fn=17)
    assert [round(value, 4) for value in (published.precision, published.recall, published.f1)] == [
        0.9263,
        0.9673,
        0.9464,
    ]


def test_found_and_missed_are_all_objects() -> None:
    source = np.random.default_rng(4)
    for _ in range(100):
        boxes = [
            [(x, y, x + w, y + h) for x, y, w, h in source.integers(0, 40, (source.integers(0, 7), 4)).tolist()]
            for _ in range(2)
        ]
        for at, counts in count(*boxes).items():
            assert at in THRESHOLDS
            assert counts.tp + counts.fn == len(boxes[1])
            assert counts.tp + counts.fp == len(boxes[0])
