"""Photographs and labelled sets: read safely, checked, handed on as plain arrays."""

from __future__ import annotations

from data.dataset import (
    check_photographs,
    is_labelled,
    leave_out_unreadable,
    list_splits,
    open_dataset,
)
from data.errors import DataError, MemoryShortageError
from data.faults import Fault, summarise_faults
from data.folder import find_others, find_photographs
from data.image_folder import (
    ImageSet,
    find_class_folders,
    list_split_folders,
    open_image_folder,
)
from data.labels import LabelledSet, Labels, Photograph, join_sets, select_classes
from data.photo import DEFAULT_MAX_SIDE, PHOTO_SUFFIXES, PhotoLike, as_photo, photo_size, read_photo
from data.splits import UNSPLIT
from data.stratified import select_photographs, split_stratified
from data.synthetic import SYNTHETIC_CLASSES, make_synthetic_set

__all__ = [
    "DEFAULT_MAX_SIDE",
    "PHOTO_SUFFIXES",
    "SYNTHETIC_CLASSES",
    "UNSPLIT",
    "DataError",
    "Fault",
    "ImageSet",
    "LabelledSet",
    "Labels",
    "MemoryShortageError",
    "PhotoLike",
    "Photograph",
    "as_photo",
    "check_photographs",
    "find_class_folders",
    "find_others",
    "find_photographs",
    "is_labelled",
    "join_sets",
    "leave_out_unreadable",
    "list_split_folders",
    "list_splits",
    "make_synthetic_set",
    "open_dataset",
    "open_image_folder",
    "photo_size",
    "read_photo",
    "select_classes",
    "select_photographs",
    "split_stratified",
    "summarise_faults",
]
