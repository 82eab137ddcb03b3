"""One launch for a whole training step on a CUDA GPU, where these small networks wait for launches."""

from collections.abc import Callable

import torch
from torch import Tensor

from gradcam_gan.training.objective import Objective


def capture_step(objective: Objective, *batch: Tensor) -> Callable[..., Tensor]:
    """Record ``objective.step`` as a CUDA graph; the networks and optimisers are left as they were.

    Args:
        objective: lives on a CUDA device; its step can be recorded.
        batch: what ``objective.step`` takes, of the shapes that every step will have.

    Returns:
        A function with the signature and the effect of ``objective.step``.
    """
    batch = tuple(tensor.clone() for tensor in batch)
    live = [tensor for network in objective.networks.values() for tensor in network.state_dict().values()]
    live += objective.state().values()
    saved = [tensor.clone() for tensor in live]

    # libraries pick their kernels and workspaces in the first steps; these must happen off the graph
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            objective.step(*batch)
    torch.cuda.current_stream().wait_stream(side)
    with torch.no_grad():
        for tensor, value in zip(live, saved, strict=True):
            tensor.copy_(value)
    for optimiser in objective.optimisers.values():
        optimiser.zero_grad(set_to_none=True)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        statistics = objective.step(*batch)

    def replay(*next_batch: Tensor) -> Tensor:
        for tensor, value in zip(batch, next_batch, strict=True):
            tensor.copy_(value)
        graph.replay()
        return statistics.clone()

    return replay
