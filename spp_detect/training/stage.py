"""What the stages of a training run have in common, and the one rule by which a run resumes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from spp_detect.training.run_folder import StageTimer

Result = TypeVar("Result")


class Stage(ABC, Generic[Result]):
    """A stage: it takes what its maker is given and leaves files in the run's work folder.

    Attributes
    ----------
    name : str
        In the run's history.
    leaves : tuple of Path
        The files that stand when the stage is done; none for a stage whose own cache says so.
    """

    name: ClassVar[str]
    leaves: tuple[Path, ...] = ()

    def is_done(self) -> bool:
        """Whether an earlier start of the run did the stage."""
        return bool(self.leaves) and all(path.is_file() for path in self.leaves)

    @abstractmethod
    def run(self) -> None:
        """Do what is not done yet, so that the files stand."""

    @abstractmethod
    def load(self) -> Result:
        """Read what the stage left."""


def do_stage(stage: Stage[Result], run_folder: Path) -> Result:
    """Do a stage unless it is done, add its seconds to the run's history, and give its result."""
    with StageTimer(run_folder, stage.name):
        if not stage.is_done():
            stage.run()
        return stage.load()
