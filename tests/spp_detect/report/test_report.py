"""Drawings and pages."""

from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from eval import Detections, Truths, analyse_errors
from spp_detect.report.drawing import draw_detections, join_images, pick_colour
from spp_detect.report.errors import plot_errors
from spp_detect.report.exports import name_folder
from spp_detect.report.page import Figure, render_page


def make_detections(*boxes) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(1, 0.5, count).astype(np.float32),
        np.zeros(count, np.int64),
    )


def test_box_is_drawn_on_its_outermost_pixels():
    photo = np.zeros((100, 120, 3), np.uint8)
    image = np.asarray(draw_detections(photo, make_detections([20, 40, 60, 80]), ["cat"]))
    colour = np.array(pick_colour(0, 1))
    assert (image[60, 20] == colour).all()
    assert (image[60, 59] == colour).all()
    assert (image[79, 40] == colour).all()
    assert (image[41:79, 21:59] == 0).all()
    assert (image[60, [18, 19, 60, 61]] == 0).all()
    assert (image[80:82] == 0).all()
    assert not photo.any(), "the photograph itself was drawn on"


def test_boxes_at_the_border_and_none_at_all():
    photo = np.full((30, 40, 3), 7, np.uint8)
    drawn = np.asarray(draw_detections(photo, make_detections([0, 0, 40, 30], [5, 5, 5, 5]), ["a"]))
    assert drawn.shape == photo.shape
    empty = np.asarray(draw_detections(photo, make_detections(), ["a"]))
    assert (empty == photo).all()


def test_joined_pictures_fill_their_rows():
    red, blue = Image.new("RGB", (40, 20), "red"), Image.new("RGB", (20, 20), "blue")
    sheet = join_images([red, blue, red], columns=2, width=120)
    assert sheet.size == (120, 40 + 60)
    assert sheet.getpixel((79, 39)) == (255, 0, 0)
    assert sheet.getpixel((81, 39)) == (0, 0, 255)
    assert sheet.getpixel((119, 99)) == (255, 0, 0)


def test_colours_of_classes_differ():
    assert len({pick_colour(c, 20) for c in range(20)}) == 20


class Collector(HTMLParser):
    """Collects what a browser would see: images and text."""

    def __init__(self):
        super().__init__()
        self.images, self.text = [], []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs)["src"])

    def handle_data(self, data):
        self.text.append(data)


def test_page_shows_names_as_they_are():
    figures = [Figure("drawn/a%20b.jpg", "a <b>.jpg", 'says "hi" & more')]
    page = render_page("Title & co", {"mAP": "0.5"}, [("Some", figures)], ["note <1>"])
    seen = Collector()
    seen.feed(page)
    assert seen.images == ["drawn/a%20b.jpg"]
    for text in ("a <b>.jpg", 'says "hi" & more', "Title & co", "0.5", "note <1>"):
        assert any(text in part for part in seen.text)


def find_height(path) -> int:
    with Image.open(path) as picture:
        return picture.height


@pytest.mark.filterwarnings("error")
def test_errors_are_drawn_of_classes_with_boxes_only(tmp_path):
    box = np.array([[0.0, 0.0, 10.0, 10.0]])
    found, path = [make_detections(*box)], tmp_path / "errors.png"
    heights = []
    for classes, labels in ((["cat"], [0]), (["cat", "dog"], [0]), (["cat", "dog"], [0, 1])):
        boxes = np.tile(box, (len(labels), 1))
        truths = [Truths(boxes, np.array(labels), np.zeros(len(labels), bool))]
        plot_errors(analyse_errors(found, truths, classes), path)
        heights.append(find_height(path))
    assert heights[0] == heights[1] < heights[2]
    truths = [Truths(box, np.array([0]), np.array([True]))]
    plot_errors(analyse_errors([make_detections()], truths, ["cat"]), path)
    assert find_height(path) < heights[0]


@pytest.mark.parametrize("name", ["cat", "..", ".", " ", "a/b", "../../x", "\\", "ä"])
def test_a_class_names_a_folder_below(tmp_path, name):
    folder = tmp_path / name_folder(name)
    assert folder.resolve().parent == tmp_path.resolve()
    assert name != "cat" or folder.name == "cat"
