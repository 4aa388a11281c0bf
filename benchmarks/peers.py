"""What people use today, each behind the same four verbs. None of them fsyncs: the bench does, and says so.

`save` is what the program waits for; `finish` waits for what goes on behind it. Everything else is as each package does it
by default, with one new directory for each save. Packages are imported by their own peer alone.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

State = dict[str, np.ndarray]


class Peer:
    """`save` and `load` (into fresh arrays) are the least that a peer has. `package`: what pip calls it, "" if it is
    NumPy or Python."""

    package = ""

    def start(self) -> None:
        """Import, and make ready what a long-running program makes once."""

    def save(self, path: Path, arrays: State) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """Return when all of the last save is written."""

    def load(self, path: Path, like: State) -> State:
        raise NotImplementedError

    def stop(self) -> None:
        """End what `start` began."""


class Savez(Peer):
    def save(self, path: Path, arrays: State) -> None:
        np.savez(path / "state.npz", **arrays)

    def load(self, path: Path, like: State) -> State:
        with np.load(path / "state.npz") as stored:
            return {name: stored[name] for name in like}


class Save(Peer):
    def save(self, path: Path, arrays: State) -> None:
        for name, array in arrays.items():
            np.save(path / f"{name}.npy", array)

    def load(self, path: Path, like: State) -> State:
        return {name: np.load(path / f"{name}.npy") for name in like}


class Pickle(Peer):
    def save(self, path: Path, arrays: State) -> None:
        with open(path / "state.pickle", "wb") as f:
            pickle.dump(arrays, f, protocol=5)

    def load(self, path: Path, like: State) -> State:
        with open(path / "state.pickle", "rb") as f:
            loaded: State = pickle.load(f)
        return loaded


class Joblib(Peer):
    package = "joblib"

    def start(self) -> None:
        import joblib

        self._joblib = joblib

    def save(self, path: Path, arrays: State) -> None:
        self._joblib.dump(arrays, path / "state.joblib")

    def load(self, path: Path, like: State) -> State:
        loaded: State = self._joblib.load(path / "state.joblib")
        return loaded


class H5py(Peer):
    package = "h5py"

    def start(self) -> None:
        import h5py

        self._h5py = h5py

    def save(self, path: Path, arrays: State) -> None:
        with self._h5py.File(path / "state.h5", "w") as f:
            for name, array in arrays.items():
                f.create_dataset(name, data=array)

    def load(self, path: Path, like: State) -> State:
        with self._h5py.File(path / "state.h5", "r") as f:
            return {name: f[name][()] for name in like}


class Zarr(Peer):
    package = "zarr"

    def start(self) -> None:
        import zarr

        self._zarr = zarr

    def save(self, path: Path, arrays: State) -> None:
        group = self._zarr.open_group(path / "state.zarr", mode="w")
        for name, array in arrays.items():
            group.create_array(name.replace(" ", "_"), data=np.asarray(array))

    def load(self, path: Path, like: State) -> State:
        group = self._zarr.open_group(path / "state.zarr", mode="r")
        return {name: np.asarray(group[name.replace(" ", "_")][...]) for name in like}


class Safetensors(Peer):
    package = "safetensors"

    def start(self) -> None:
        import safetensors.numpy

        self._numpy = safetensors.numpy

    def save(self, path: Path, arrays: State) -> None:
        self._numpy.save_file(arrays, path / "state.safetensors")

    def load(self, path: Path, like: State) -> State:
        loaded: State = self._numpy.load_file(path / "state.safetensors")
        return loaded


class Torch(Peer):
    """The arrays as tensors that share their memory."""

    package = "torch"

    def start(self) -> None:
        import torch

        self._torch = torch

    def tensors(self, arrays: State) -> dict[str, Any]:
        return {name: self._torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}

    def save(self, path: Path, arrays: State) -> None:
        self._torch.save(self.tensors(arrays), path / "state.pt")

    def load(self, path: Path, like: State) -> State:
        return {name: t.numpy() for name, t in self._torch.load(path / "state.pt", weights_only=True).items()}


class TorchDCP(Torch):
    """torch.distributed.checkpoint, one process of gloo."""

    def start(self) -> None:
        super().start()
        import torch.distributed as distributed
        import torch.distributed.checkpoint as dcp

        self._distributed, self._dcp = distributed, dcp
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)

    def save(self, path: Path, arrays: State) -> None:
        self._dcp.save(self.tensors(arrays), checkpoint_id=path)

    def load(self, path: Path, like: State) -> State:
        tensors = {name: self._torch.empty_like(tensor) for name, tensor in self.tensors(like).items()}
        self._dcp.load(tensors, checkpoint_id=path)
        return {name: tensor.numpy() for name, tensor in tensors.items()}

    def stop(self) -> None:
        self._distributed.destroy_process_group()


class TorchDCPAsync(TorchDCP):
    def save(self, path: Path, arrays: State) -> None:
        self._future = self._dcp.async_save(self.tensors(arrays), checkpoint_id=path)

    def finish(self) -> None:
        self._future.result()


class OrbaxAsync(Peer):
    package = "orbax-checkpoint jax"

    def start(self) -> None:
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self._checkpointer = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())

    def save(self, path: Path, arrays: State) -> None:
        self._checkpointer.save(path.absolute() / "state", args=self._ocp.args.StandardSave(arrays))

    def finish(self) -> None:
        self._checkpointer.wait_until_finished()

    def load(self, path: Path, like: State) -> State:
        loaded: State = self._checkpointer.restore(path.absolute() / "state", args=self._ocp.args.StandardRestore(like))
        return loaded

    def stop(self) -> None:
        self._checkpointer.close()


PEERS: dict[str, type[Peer]] = {
    "np.savez": Savez,
    "np.save": Save,
    "pickle 5": Pickle,
    "joblib": Joblib,
    "h5py": H5py,
    "zarr": Zarr,
    "safetensors": Safetensors,
    "torch.save": Torch,
    "torch DCP": TorchDCP,
    "torch DCP async": TorchDCPAsync,
    "Orbax async": OrbaxAsync,
}

# What pip is asked for: each entry on its own, so that one that can't be had takes no other along.
PACKAGES = ("h5py", "zarr", "safetensors", "joblib", "torch", "orbax-checkpoint jax[cpu]")
