"""Small pictures of what a model says: what is drawn where."""

import numpy as np
import torch

from xt.tasks.preview import COLOURS, GAP, LINE, NO_DATA, SIDE, Mark, Panel, draw, of_classes, of_image, of_values

RED = (255, 0, 0)
TITLE = 2 * LINE + 4


def test_an_image_is_stretched_and_what_has_no_data_is_marked():
    image = torch.linspace(-3, 5, 64).repeat(1, 64, 1)
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    valid[:, :10] = False
    image[:, :10] = 1e9
    picture = of_image(image, valid)
    assert picture.shape == (64, 64, 3)
    assert (picture[:10] == NO_DATA).all()
    assert picture[10, 0, 0] == 0
    assert picture[10, -1, 0] == 255
    assert (np.diff(picture[20, :, 0].astype(int)) >= 0).all()
    assert (picture[10:, :, 0] == picture[10:, :, 2]).all()


def test_three_bands_keep_their_order():
    image = torch.zeros(3, 32, 32)
    image[0, :, 16:], image[2, 16:] = 1, 1
    picture = of_image(image, torch.ones(1, 32, 32, dtype=torch.bool))
    assert picture[0, 31].tolist() == [255, 0, 0]
    assert picture[31, 0].tolist() == [0, 0, 255]


def test_an_image_without_any_data_is_drawn():
    assert (of_image(torch.zeros(2, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool)) == NO_DATA).all()


def test_a_large_map_keeps_its_peak():
    values = np.zeros((4 * SIDE, 2 * SIDE), np.float32)
    values[1001, 501] = 200
    picture = of_values(values, torch.ones(1, *values.shape, dtype=torch.bool), 200.0)
    assert picture.shape == (SIDE, SIDE // 2, 3)
    assert np.argwhere(picture[..., 0] == 255).tolist() == [[250, 125]]


def test_classes_have_colours_of_their_own():
    classes = np.arange(len(COLOURS) + 1)[None].repeat(2, 0)
    known = np.ones_like(classes, bool)
    known[1, 3] = False
    picture = of_classes(classes, known)
    assert [tuple(each) for each in picture[0, : len(COLOURS)].tolist()] == list(COLOURS)
    assert tuple(picture[0, -1]) == COLOURS[1]
    assert tuple(picture[1, 3]) == NO_DATA


def test_marks_stand_where_they_should():
    panels = [
        Panel("a\nb", np.zeros((40, 60, 3), np.uint8)),
        Panel(
            "b", np.zeros((50, 60, 3), np.uint8), 10.0, lambda: [Mark(200, 300, RED, True), Mark(400, 100, RED, False)]
        ),
    ]
    sheet = np.asarray(draw(panels))
    assert sheet.shape == (TITLE + 50, 60 + GAP + 60, 3)
    red = (sheet == RED).all(-1)
    left = 60 + GAP
    assert red[TITLE + 20, left + 30]  # the middle of a cross
    assert not red[TITLE + 40, left + 10]  # the middle of a ring
    assert red[TITLE + 40, left + 1 : left + 4].any()
    assert not red[:, :left].any()


def test_titles_hold_letters_that_are_not_ascii():
    def drawn(title: str) -> bytes:
        return draw([Panel(title, np.zeros((4, 60, 3), np.uint8))]).tobytes()

    assert len({drawn(title) for title in ("ü", "é", "ж", "–", "…", "°")}) == 6
