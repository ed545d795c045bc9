"""Fit the weights in `flanlab.results.layout`: critical values for a variance of which one part has few degrees of freedom.

The variance is V + C: V is estimated with few degrees of freedom (few templates), C is known (many rows). The critical value
lies between Student's t for V alone and the normal's for C alone, by a weight of V's estimated share s,
s ** a / (s ** a + b * (1 - s)). For each number of degrees of freedom a and log b are fitted so that 95 % of intervals hold the
truth whatever the true shares. Printed with the largest deviation from 95 %.

    python benchmarks/critical_values.py
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]

KNOWN_SHARES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
POINTS = (np.arange(20_000) + 0.5) / 20_000


def coverage(parameters: Floats, freedom: int) -> Floats:
    """Coverage for each true share of the known part."""
    power, logarithm = parameters
    few, many = stats.t.ppf(0.975, freedom), stats.norm.ppf(0.975)
    chi = stats.chi2.ppf(POINTS, freedom) / freedom
    found = []
    for known in KNOWN_SHARES:
        estimated = (1 - known) * chi
        share = estimated / (estimated + known)
        weight = share**power / (share**power + np.exp(logarithm) * (1 - share))
        half = (many + weight * (few - many)) * np.sqrt(estimated + known)
        found.append(float(np.mean(2 * stats.norm.cdf(half) - 1)))
    return np.array(found)


def main() -> None:
    for freedom in (1, 2, 3, 4, 5, 7, 9, 15):
        fitted = optimize.minimize(
            lambda parameters, freedom=freedom: np.abs(coverage(parameters, freedom) - 0.95).max(),
            [1.5, 0.5],
            method="Nelder-Mead",
        )
        power, logarithm = fitted.x
        print(f"{freedom:2}: power {power:5.2f}, logarithm {logarithm:6.2f}, off by at most {fitted.fun:.2%}")


if __name__ == "__main__":
    main()
