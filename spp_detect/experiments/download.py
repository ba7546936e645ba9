"""Pascal VOC 2007 through torchvision, checked."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import VOCDetection

from data import check_photographs, open_dataset

PHOTOGRAPHS = {"trainval": 5011, "test": 4952}


class DownloadError(ValueError):
    """A data set that could not be fetched or is not whole."""


def download_voc(folder: Path) -> Path:
    """Download VOC 2007's trainval and test sets and check every photograph.

    Parameters
    ----------
    folder : Path
        Gets the archives and what is in them.

    Returns
    -------
    Path
        The VOC folder, to give to `train` and `evaluate`.

    Raises
    ------
    DownloadError
        Where a download fails or photographs are missing.
    """
    for split, expected in PHOTOGRAPHS.items():
        try:
            VOCDetection(str(folder), year="2007", image_set=split, download=True)
        except (OSError, RuntimeError) as error:
            raise DownloadError(
                f"{folder}: cannot download VOC 2007 {split} ({error}); fetch the official tar "
                "files by other means and unpack them there"
            ) from error
        dataset = open_dataset(folder, split, strict=True)
        if len(dataset) != expected:
            raise DownloadError(
                f"{dataset.root}: {len(dataset)} photographs in {split}, expected {expected}"
            )
        problems = check_photographs(dataset)
        if problems:
            raise problems[0]
    return dataset.root
