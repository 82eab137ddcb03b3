"""One launch for a whole training step on a CUDA GPU, where these small networks wait for launches."""

from collections.abc import Callable

import torch
from torch import Tensor

from gradcam_gan.training.objective import DCGANObjective

Step = Callable[[Tensor, Tensor], Tensor]


def capture_step(objective: DCGANObjective, real: Tensor, latents: Tensor) -> Step:
    """Record ``objective.step`` as a CUDA graph; the networks and optimisers are left as they were.

    Args:
        objective: lives on a CUDA device.
        real: a batch of the shape that every step will have.
        latents: its latents.

    Returns:
        A function with the signature and the effect of ``objective.step``.
    """
    real, latents = real.clone(), latents.clone()
    live = [tensor for network in objective.networks.values() for tensor in network.state_dict().values()]
    live += objective.state().values()
    saved = [tensor.clone() for tensor in live]

    # libraries pick their kernels and workspaces in the first steps; these must happen off the graph
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            objective.step(real, latents)
    torch.cuda.current_stream().wait_stream(side)
    with torch.no_grad():
        for tensor, value in zip(live, saved, strict=True):
            tensor.copy_(value)
    for optimiser in objective.optimisers.values():
        optimiser.zero_grad(set_to_none=True)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        statistics = objective.step(real, latents)

    def replay(next_real: Tensor, next_latents: Tensor) -> Tensor:
        real.copy_(next_real)
        latents.copy_(next_latents)
        graph.replay()
        return statistics.clone()

    return replay
