"""Photographs and labelled sets: read safely, checked, handed on as plain arrays."""

from __future__ import annotations

from data.dataset import check_photographs, is_labelled, open_dataset
from data.errors import DataError
from data.folder import count_passed_over, find_photographs
from data.labels import LabelledSet, Labels, Photograph, join_sets, select_classes
from data.photo import DEFAULT_MAX_SIDE, PHOTO_SUFFIXES, PhotoLike, as_photo, photo_size, read_photo
from data.synthetic import SYNTHETIC_CLASSES, make_synthetic_set

__all__ = [
    "DEFAULT_MAX_SIDE",
    "PHOTO_SUFFIXES",
    "SYNTHETIC_CLASSES",
    "DataError",
    "LabelledSet",
    "Labels",
    "PhotoLike",
    "Photograph",
    "as_photo",
    "check_photographs",
    "count_passed_over",
    "find_photographs",
    "is_labelled",
    "join_sets",
    "make_synthetic_set",
    "open_dataset",
    "photo_size",
    "read_photo",
    "select_classes",
]
