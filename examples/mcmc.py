"""Sampling a posterior with `emcee`, a package that knows nothing of Holdfast. Serial.

    python examples/mcmc.py                 # kill it at any moment, start it again: it goes on, and ends the same

A robust regression (Student's t with 4 degrees of freedom) of the progression of diabetes on body mass index, blood
pressure and a serum measurement, 442 patients, from the data set of Efron, Hastie, Johnstone and Tibshirani (2004)
that scikit-learn carries.

emcee makes a new state at each step, so the state lives in `run.state`, whose attributes are free to be rebound. Its
random numbers come from the generator state that each `emcee.State` carries. The chain is a file that belongs to the
run: after a kill it is cut back to its length at the version that was restored.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import emcee
import numpy as np
from sklearn.datasets import load_diabetes

import holdfast

NAMES = ["intercept", "bmi", "blood pressure", "ltg", "log scale"]
WALKERS, FREEDOM = 20, 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description="an emcee ensemble with checkpoints")
    parser.add_argument("--steps", type=int, default=2000, help="steps of the ensemble (2000)")
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints (100)")
    parser.add_argument("--seed", type=int, default=1, help="of the walkers and their moves (1)")
    parser.add_argument("--run", default="runs/mcmc", metavar="DIR", help="where the checkpoints go (runs/mcmc)")
    parser.add_argument("--out", default="runs/mcmc.json", metavar="FILE.json", help="posterior (runs/mcmc.json)")
    parser.add_argument("--chain", default="runs/mcmc.f64", metavar="FILE", help="all positions (runs/mcmc.f64)")
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS", help="sleep after each step (0)")
    args = parser.parse_args()

    sampler = emcee.EnsembleSampler(WALKERS, len(NAMES), log_posterior, args=regression(), vectorize=True)

    with holdfast.open(args.run, params={"seed": args.seed, "walkers": WALKERS, "freedom": FREEDOM}) as run:
        seed = np.random.RandomState(args.seed)
        s = run.state(
            coords=seed.normal(0.0, 0.1, (WALKERS, len(NAMES))),
            log_prob=None,
            random_state=seed.get_state(),
        )
        chain = run.file(args.chain, "ab")

        for _ in run.steps(args.steps, every=holdfast.steps(args.every)):
            start = emcee.State(s.coords, log_prob=s.log_prob, random_state=s.random_state)
            after = next(sampler.sample(start, store=False, skip_initial_state_check=True))
            s.coords, s.log_prob, s.random_state = after.coords, after.log_prob, after.random_state
            chain.write(s.coords.tobytes())
            if args.pause:
                time.sleep(args.pause)

        # Inside the block, whose end makes the run complete: a kill in here means that the file is written again.
        chain.flush()
        positions = np.fromfile(args.chain).reshape(-1, WALKERS, len(NAMES))
        kept = positions[len(positions) // 4 :].reshape(-1, len(NAMES))
        posterior = {name: [float(v.mean()), float(v.std())] for name, v in zip(NAMES, kept.T, strict=True)}
        Path(args.out).write_text(json.dumps(posterior, indent=1) + "\n", encoding="utf-8")
        for name, (mean, std) in posterior.items():
            print(f"mcmc: {name:14} {mean:+.3f} +- {std:.3f}")


def regression() -> tuple[np.ndarray, np.ndarray]:
    """Design matrix (442 x 4) and target (442), all in standard deviations from their means."""
    data = load_diabetes()
    columns = [data.feature_names.index(c) for c in ("bmi", "bp", "s5")]
    x, y = data.data[:, columns], data.target
    x, y = (x - x.mean(axis=0)) / x.std(axis=0), (y - y.mean()) / y.std()
    return np.column_stack([np.ones(len(y)), x]), y


def log_posterior(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """For positions (walkers x 5) their log posterior density up to a constant: t errors, normal priors of width 3."""
    log_scale = theta[:, -1]
    z = (y - theta[:, :-1] @ x.T) / np.exp(log_scale)[:, None]
    likelihood = -0.5 * (FREEDOM + 1.0) * np.log1p(z**2 / FREEDOM).sum(axis=1) - len(y) * log_scale
    return likelihood - 0.5 * ((theta / 3.0) ** 2).sum(axis=1)


if __name__ == "__main__":
    main()
