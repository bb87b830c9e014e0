"""The mesh, and where each array lives on it: batches over all devices, parameters over "fsdp"."""
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")


def make_mesh(fsdp: int = 1, devices=None) -> Mesh:
    """A mesh ("data", "fsdp") over all devices; fsdp of them share one copy of the parameters."""
    devices = np.asarray(jax.devices() if devices is None else devices)
    if fsdp < 1 or devices.size % fsdp:
        raise ValueError(f"mesh.fsdp = {fsdp} does not divide the {devices.size} devices")
    return Mesh(devices.reshape(-1, fsdp), AXES)


def over_batch(mesh: Mesh) -> NamedSharding:
    """Examples over every device, both axes."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def over_fsdp(mesh: Mesh, tree):
    """Each array's sharding: its largest dimension that the fsdp axis divides; else replicated."""
    size = mesh.shape["fsdp"]

    def one(array):
        spec = [None] * array.ndim
        divisible = [d for d in range(array.ndim) if array.shape[d] % size == 0]
        if size > 1 and divisible and array.size >= 1024 * size:
            spec[max(divisible, key=lambda d: array.shape[d])] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(one, tree)


def to_mesh(mesh: Mesh, batch):
    """This process's share of a global batch, as global arrays over the mesh."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(over_batch(mesh), x),
                        batch)
