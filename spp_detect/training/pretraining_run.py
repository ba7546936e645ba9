"""The run that trains a classifier: its options, its images, and what it leaves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import DEFAULT_MAX_SIDE, find_class_folders, is_labelled
from spp_detect.classification.config import ClassifierConfig, config_from_json
from spp_detect.classification.images import Images, find_split, hold_out, open_images
from spp_detect.files import write_json
from spp_detect.provenance import record_run
from spp_detect.training.pretraining import STATE, Pretrainer, check_batch, describe_run
from spp_detect.training.run_folder import TrainingError, check_identity
from spp_detect.training.team import Team

RUN = "run.json"
NORMED = {"rate": 1e-3, "decay": 0.02}  # of AdamW, where they are not given


@dataclass(frozen=True)
class PretrainingOptions:
    """What a run is asked for.

    Attributes
    ----------
    data : str
        Where the images lie.
    split : str
        Of a set that has splits.
    settings : dict
        Fields of a ClassifierConfig.
    max_side : int
        Of a photograph, in pixels.
    """

    data: str
    split: str
    settings: dict[str, Any]
    max_side: int = DEFAULT_MAX_SIDE

    @staticmethod
    def read(run: Path) -> PretrainingOptions:
        """Read the options that a run was begun with.

        Raises
        ------
        TrainingError
            Where there are none.
        """
        path = run / RUN
        try:
            text = json.loads(path.read_text(encoding="utf-8"))
            settings = dict(text["config"])
            return PretrainingOptions(text["data"], text["split"], settings, int(text["max_side"]))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise TrainingError(f"{path}: not what a pretraining was begun with") from error


class PretrainingRun:
    """Trains a classifier on a set's images and leaves it in a folder.

    Parameters
    ----------
    folder : Path
        The run's.
    options : PretrainingOptions
        What is asked for.
    team : Team
        The processes that share the work.
    memory : int
        Bytes of images that are kept.

    Raises
    ------
    TrainingError
        For batches that are too small to have batch norms.
    """

    def __init__(self, folder: Path, options: PretrainingOptions, team: Team, memory: int) -> None:
        self.folder = folder
        self.options = options
        self.team = team
        self.memory = memory
        usual = NORMED if options.settings.get("start") == "normed" else {}
        self.config = config_from_json(usual | options.settings)
        self.images, self.held_out = open_training_images(
            Path(options.data), options.split, self.config, options.max_side
        )
        check_batch(self.config, len(self.images), team)

    def train(self) -> dict[str, Any]:
        """Train, from where an earlier start was stopped: what was measured.

        Raises
        ------
        TrainingError
            Where the run was begun with other options or images, or what it left is damaged.
        """
        identity = describe_run(self.config, self.images, self.held_out)
        identity["max_side"] = self.options.max_side
        path = self.folder / RUN
        if path.is_file():
            check_identity(path, identity, "the run was")
        metrics = self.folder / "metrics.json"
        if metrics.is_file():
            return _read_metrics(metrics)
        if self.team.leads and not path.is_file():
            asked = {"data": self.options.data, "split": self.options.split}
            write_json(path, identity | asked)
        limits = self.memory, self.options.max_side
        trainer = Pretrainer(
            self.config, self.images, self.held_out, self.folder, self.team, *limits
        )
        trainer.train()
        numbers = {
            "held_out_error": trainer.history[-1][-1],
            "held_out": len(self.held_out),
            "images": len(self.images),
            "epochs": self.config.epochs,
            "seconds": round(trainer.seconds, 1),
            "record": record_run(),
        }
        if self.team.leads:
            write_json(metrics, numbers)
            (self.folder / "work" / STATE).unlink(missing_ok=True)
        return numbers


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found | {"held_out_error": float(found["held_out_error"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: not what a finished pretraining leaves") from error


def open_training_images(
    path: Path, split: str, config: ClassifierConfig, max_side: int
) -> tuple[Images, Images]:
    """Open the images to learn from, and those on which the error is measured.

    These are the folder val where there is one beside the images' own, with folders of classes as
    well, else a part of the images.
    """
    images = open_images(path, split, None, max_side)
    if not is_labelled(path):
        own, beside = find_split(path, split), find_split(path, "val", path)
        if path not in (own, beside) and own != beside and find_class_folders(beside):
            return images, open_images(path, "val", images.classes, max_side)
    return hold_out(images, config.held_out, config.seed)
