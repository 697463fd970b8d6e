"""The Fréchet distance of two sets of pictures' features (FID with Inception's), gathered in bounded memory."""

import numpy as np

FEWEST = 2048  # samples: with fewer than Inception's features the covariance has no full rank


class FeatureStatistics:
    """Mean and covariance of features (N,D) that come in parts; D * D numbers are held."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = np.zeros(0)
        self._products = np.zeros((0, 0))

    def add(self, features: np.ndarray) -> None:
        """Take in (n,D)."""
        rows = np.asarray(features, np.float64)
        if not self.count:
            self._sum, self._products = np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
        self.count += len(rows)
        self._sum += rows.sum(0)
        self._products += rows.T @ rows

    def include(self, other: "FeatureStatistics") -> None:
        """Take in what another has gathered."""
        if not self.count:
            self._sum, self._products = np.zeros_like(other._sum), np.zeros_like(other._products)
        self.count += other.count
        self._sum += other._sum
        self._products += other._products

    @property
    def mean(self) -> np.ndarray:
        """(D,)"""
        return self._sum / self.count

    @property
    def covariance(self) -> np.ndarray:
        """(D,D), divided by N - 1."""
        return (self._products - self.count * np.outer(self.mean, self.mean)) / max(1, self.count - 1)


def frechet_distance(
    mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> float:
    """|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two Gaussians (Heusel et al. 2017).

    The trace of the root is the sum of the roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), which is symmetric.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    common = np.sqrt(np.linalg.eigvalsh(root @ other_covariance @ root).clip(0)).sum()
    apart = mean - other_mean
    return float(apart @ apart + np.trace(covariance) + np.trace(other_covariance) - 2 * common)


def fid(made: FeatureStatistics, real: FeatureStatistics) -> tuple[float, str]:
    """The distance, and a warning, "" when there are enough samples. NaN when a set has fewer than two."""
    fewest = min(made.count, real.count)
    warning = ""
    if fewest < FEWEST:
        warning = f"FID from {made.count} and {real.count} pictures: below {FEWEST} it is too high and does not compare"
    if fewest < 2:
        return float("nan"), warning
    return frechet_distance(made.mean, made.covariance, real.mean, real.covariance), warning
