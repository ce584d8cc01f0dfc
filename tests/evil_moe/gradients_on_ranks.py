"""Run on two processes by test_gradients.py: the gradient transforms on sharded tensors. Light, so that it starts fast."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import (
    DeviceMesh,
    Placement,
    Replicate,
    Shard,
    distribute_tensor,
    init_device_mesh,
)

from evil_moe.gradients.base import block_views
from evil_moe.gradients.freeze_quarantine import FreezeQuarantine
from evil_moe.gradients.kept_share import KeptShare
from evil_moe.gradients.projection import Projection
from evil_moe.gradients.split_moment import SplitMoment
from evil_moe.sharded import whole


def adapter_like(
    seed: int, modules: int = 3, rank: int = 5, d_in: int = 6, d_out: int = 7
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for i in range(modules):
        out[f"base.{i}.q.lora_2r_dA.default"] = torch.randn(rank, d_in, generator=generator)
        out[f"base.{i}.q.lora_2r_dB.default"] = torch.randn(d_out, rank, generator=generator)
    return out


def clone(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: g.clone() for name, g in gradients.items()}


def check_split_moment(mesh: DeviceMesh, placement: Placement) -> None:
    """Three steps on placed parameters against the same on plain ones. What reaches the block in the second lies on one rank,
    in the third nothing does."""
    place = lambda t: distribute_tensor(t.clone(), mesh, [placement])  # noqa: E731
    steps: list[tuple[dict[str, Tensor], float]] = [(adapter_like(seed), 1.0) for seed in (1, 2, 3)]
    for g, _ in steps[1:]:
        for view in block_views(g, slice(0, 3)):
            view.zero_()
    next(iter(steps[1][0].values()))[0, 0] = 1.0
    run = []
    for put in (Tensor.clone, place):
        parameters = {n: torch.nn.Parameter(put(t)) for n, t in adapter_like(0).items()}
        optimizer = torch.optim.AdamW(list(parameters.values()), lr=0.1)
        plug, after = SplitMoment(3), []
        plug.attach(optimizer)
        for (g, kept), seed in zip(steps, (4, 5, 6), strict=True):
            for name, p in parameters.items():
                p.grad = put(g[name])
            plug.take_unrouted({n: put(t) for n, t in adapter_like(seed).items()})
            with plug.around_step(parameters, kept):
                optimizer.step()
            after.append({n: whole(p.detach()).clone() for n, p in parameters.items()})
        run.append(after)
    for plain, placed in zip(*run, strict=True):
        for name, want in plain.items():
            torch.testing.assert_close(placed[name], want)
    for name in steps[0][0]:
        views = [block_views({name: after[name]}, slice(0, 3))[0] for after in run[1]]
        assert not torch.isclose(views[0], views[1]).any() and torch.equal(views[1], views[2])


def check_on_rank(rank: int, folder: str) -> None:
    """Both transforms on gradients sharded over two ranks, against the plain result; rank 1's dA has 2 of 5 rows."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    shard = lambda tensors: {n: distribute_tensor(t.clone(), mesh, [Shard(0)]) for n, t in tensors.items()}  # noqa: E731
    generator = torch.Generator().manual_seed(2)
    weights = {f"base.{i}.q": torch.randn(7, 6, generator=generator) for i in range(3)}
    v, g = adapter_like(0), adapter_like(1)

    for magnitude, denoise in [(True, None), (False, 3)]:
        plain, sharded = clone(g), shard(g)
        results = []
        for gradients, direction, w in ((plain, v, weights), (sharded, shard(v), shard(weights))):
            projection = Projection(magnitude, denoise)
            report = projection.set_direction(direction, w.__getitem__)
            results.append({**report, **projection(gradients)})
        assert 0 < results[0]["share_projected"] < 1
        assert results[1] == pytest.approx(results[0], rel=1e-5)
        for name, want in plain.items():
            torch.testing.assert_close(sharded[name].full_tensor(), want)

    for placement in (Shard(0), Shard(1), Replicate()):
        for rank_deployed in (1, 3, 4):  # a boundary in rank 0's rows, between the ranks, in rank 1's rows
            freeze, plain = FreezeQuarantine(rank_deployed), clone(g)
            placed = {n: distribute_tensor(t.clone(), mesh, [placement]) for n, t in g.items()}
            freeze(plain), freeze(placed)
            for name, want in plain.items():
                assert torch.equal(placed[name].full_tensor(), want), (placement, rank_deployed, name)
            with freeze.around_step(placed, kept_share=0.5):
                for tensor in placed.values():
                    tensor.add_(1.0)
            for name, want in plain.items():
                kept = (plain[name] == 0) * -1.0 + 1.0
                assert torch.equal(placed[name].full_tensor(), want + kept)
            head = block_views(
                placed, KeptShare(rank_deployed).deployed
            )  # what the tail, which was held, leaves
            tail = block_views(placed, freeze.quarantine)
            for tensor, first, rest in zip(placed.values(), head, tail, strict=True):
                assert first.numel() + rest.numel() == tensor.to_local().numel()
                assert not first.numel() or first.data_ptr() == tensor.to_local().data_ptr()
        check_split_moment(mesh, placement)
    dist.barrier()
    dist.destroy_process_group()
