"""Our SVM solver against liblinear on windows' features: seconds and the objective reached.

    python benchmarks/svm_solver.py --out results/benchmarks/svm_solver.json

The features are made up: as many as one class has, as long and as sparse as pooled windows are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.svm import LinearSVC
from timing import find_ratio, time_in_turns, write_result

from svm import LinearSvm

C, POSITIVE_WEIGHT, BIAS, TOLERANCE = 1e-3, 2.0, 10.0, 0.01


def make_examples(count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of a mean norm of 20, a tenth of them positive by a noisy plane."""
    random = np.random.default_rng(0)
    features = np.maximum(random.normal(0, 1, (count, length)), 0).astype(np.float32)
    features *= 20 / np.linalg.norm(features, axis=1).mean()
    scores = features @ random.normal(0, 1, length)
    scores += random.normal(0, 0.3 * scores.std(), count)
    return features, np.where(scores > np.quantile(scores, 0.9), 1, -1)


def find_objective(coef: np.ndarray, bias: float, x: np.ndarray, labels: np.ndarray) -> float:
    """½ |w|² + Σ C · hinge loss, the bias's weight among w."""
    costs = np.where(labels > 0, C * POSITIVE_WEIGHT, C)
    losses = np.maximum(0, 1 - labels * (x @ coef.astype(float) + bias))
    return float(0.5 * (coef @ coef + (bias / BIAS) ** 2) + costs @ losses)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=4000)
    parser.add_argument("--length", type=int, default=12_800)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    features, labels = make_examples(arguments.examples, arguments.length)
    doubles = features.astype(np.float64)  # what LinearSVC takes without a copy
    ours = LinearSvm(C, POSITIVE_WEIGHT, BIAS, TOLERANCE)
    theirs = LinearSVC(
        loss="hinge",
        C=C,
        class_weight={1: POSITIVE_WEIGHT, -1: 1.0},
        intercept_scaling=BIAS,
        tol=TOLERANCE,
        max_iter=10_000,
        random_state=0,
    )
    seconds = time_in_turns(
        {
            "ours": lambda: ours.fit(features, labels),
            "liblinear": lambda: theirs.fit(doubles, labels),
        },
        arguments.rounds,
    )
    result = {
        "ratio": find_ratio(seconds, "liblinear", "ours"),
        "objective": {
            "ours": find_objective(ours.coef_, ours.intercept_, features, labels),
            "liblinear": find_objective(theirs.coef_[0], theirs.intercept_[0], features, labels),
        },
        "examples": list(features.shape),
        "tolerance": TOLERANCE,
        "seconds": seconds,
    }
    write_result(arguments.out, result)
    print(f"SVM: {result['ratio']:.1f}× as fast as liblinear, objectives {result['objective']}")


if __name__ == "__main__":
    main()
