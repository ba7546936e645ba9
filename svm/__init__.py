"""Per-class linear SVMs and their training by hard negative mining (paper, section 4.1)."""

from svm.examples import SomeRows, Table
from svm.linear import LinearSvm, SvmError
from svm.mining import HardNegativeMiner, MinerState

__all__ = ["HardNegativeMiner", "LinearSvm", "MinerState", "SomeRows", "SvmError", "Table"]
