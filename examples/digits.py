"""A small neural network that learns handwritten digits, trained with minibatches. Serial.

    python examples/digits.py               # kill it at any moment, start it again: it goes on, and ends the same

The state of a training loop is more than its weights: here also the momentum, the random generator, the order in
which the examples of this epoch are shuffled, and the file of losses. All of it comes back.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.datasets import load_digits

import holdfast

HIDDEN, CLASSES = 32, 10
BATCH, RATE, MOMENTUM = 50, 0.05, 0.9
Weights = dict[str, np.ndarray]
TRAIN = 1500  # of the 1797 images; the others are for the test


def main() -> None:
    parser = argparse.ArgumentParser(description="digits, learned by a network with one hidden layer")
    parser.add_argument("--steps", type=int, default=1500, help="minibatches, 30 to an epoch (1500)")
    parser.add_argument("--every", type=int, default=50, help="minibatches between checkpoints (50)")
    parser.add_argument("--seed", type=int, default=1, help="of weights and shuffling (1)")
    parser.add_argument("--run", default="runs/digits", metavar="DIR", help="where the checkpoints go (runs/digits)")
    parser.add_argument("--out", default="runs/digits.npz", metavar="FILE.npz", help="weights (runs/digits.npz)")
    parser.add_argument("--log", default="runs/digits.csv", metavar="FILE.csv", help="losses (runs/digits.csv)")
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS", help="sleep after each step (0)")
    args = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    images = images / 16.0
    x, y = images[:TRAIN], labels[:TRAIN]
    batches = TRAIN // BATCH

    with holdfast.open(args.run, params={"seed": args.seed, "hidden": HIDDEN, "batch": BATCH, "rate": RATE}) as run:
        rng = run.rng(args.seed)
        weights = run.protect("weights", initial_weights(rng, x.shape[1]))
        momentum = run.protect("momentum", {name: np.zeros_like(w) for name, w in weights.items()})
        order = run.protect("order", np.arange(TRAIN))
        log = run.file(args.log, "a")

        for step in run.steps(args.steps, every=holdfast.steps(args.every)):
            if step % batches == 0:
                rng.shuffle(order)
            batch = order[step % batches * BATCH :][:BATCH]
            loss, slopes = loss_and_slopes(weights, x[batch], y[batch])
            for name, slope in slopes.items():
                momentum[name] *= MOMENTUM
                momentum[name] -= RATE * slope
                weights[name] += momentum[name]
            log.write(f"{step},{loss!r}\n")
            if args.pause:
                time.sleep(args.pause)

        # Inside the block, whose end makes the run complete: a kill in here means that the file is written again.
        np.savez(args.out, **weights)
        accuracy = np.mean(scores(weights, images[TRAIN:])[1].argmax(axis=1) == labels[TRAIN:])
        print(f"digits: {args.steps} minibatches, test accuracy {accuracy:.4f}, weights in {args.out}")


def initial_weights(rng: np.random.Generator, pixels: int) -> Weights:
    return {
        "w1": rng.normal(0.0, pixels**-0.5, (pixels, HIDDEN)),
        "b1": np.zeros(HIDDEN),
        "w2": rng.normal(0.0, HIDDEN**-0.5, (HIDDEN, CLASSES)),
        "b2": np.zeros(CLASSES),
    }


def scores(weights: Weights, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hidden layer (images x HIDDEN) and the classes' scores (images x CLASSES)."""
    hidden = np.tanh(x @ weights["w1"] + weights["b1"])
    return hidden, hidden @ weights["w2"] + weights["b2"]


def loss_and_slopes(weights: Weights, x: np.ndarray, y: np.ndarray) -> tuple[float, Weights]:
    """Mean cross entropy of the images `x` with labels `y`, and its derivative by each weight."""
    hidden, z = scores(weights, x)
    z -= z.max(axis=1, keepdims=True)
    chance = np.exp(z)
    chance /= chance.sum(axis=1, keepdims=True)
    rows = np.arange(len(y))
    loss = float(-np.log(chance[rows, y]).mean())

    dz = chance
    dz[rows, y] -= 1.0
    dz /= len(y)
    dh = (dz @ weights["w2"].T) * (1.0 - hidden**2)
    return loss, {"w1": x.T @ dh, "b1": dh.sum(axis=0), "w2": hidden.T @ dz, "b2": dz.sum(axis=0)}


if __name__ == "__main__":
    main()
