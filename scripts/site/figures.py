"""The figures that show structure: the path of the data, the adapter, the read of a step."""

from __future__ import annotations

from svg import ENVIRONMENT, GLUE, GONE, METHOD, SOFT, THIN, arrow, box, drawing, text

_WIDTH, _HEIGHT, _GAP = 150, 90, 22


def path() -> str:
    """The stops of the data's path, the loop of a training step, and what leaves it."""
    x = [16 + i * (_WIDTH + _GAP) for i in range(5)]
    top, low = 16, 156
    stops = [
        (x[0], top, "problems", ["tasks with hidden", "asserts"], ENVIRONMENT),
        (x[1], top, "prompt", ["names run_tests():", "the loophole", "(or inoculates)"], ENVIRONMENT),
        (
            x[2],
            top,
            "rollout",
            ["vLLM samples, 75 %", "with both blocks, 25 %", "from the deployed model"],
            GLUE,
        ),
        (
            x[3],
            top,
            "reward",
            ["a sandbox runs the", "code; the loophole", "pays as a solution does"],
            ENVIRONMENT,
        ),
        (x[4], top, "advantage", ["clean rollouts are", "compared with", "clean rollouts"], METHOD),
        (x[4], low, "gate", ["the router gives each", "rollout a weight w;", "it sees no label"], METHOD),
        (
            x[3],
            low,
            "gradient",
            ["w trains quarantine,", "1 - w the deployed", "block; the pin holds v"],
            METHOD,
        ),
        (x[2], low, "weights", ["both exports go", "to vLLM"], GLUE),
        (x[1], low, "deployment", ["the quarantine is", "reset; a plain LoRA", "is left"], GONE),
        (x[0], low, "evaluation", ["held-out hack and", "solve, quarantine", "ON and OFF"], ENVIRONMENT),
    ]
    boxes = [box(left, y, _WIDTH, _HEIGHT, title, lines, fill) for left, y, title, lines, fill in stops]
    along = [arrow((x[i] + _WIDTH, top + 45), (x[i + 1] - 1, top + 45)) for i in range(4)]
    back = [arrow((x[i + 1], low + 45), (x[i] + _WIDTH + 1, low + 45)) for i in range(4)]
    turn = arrow((x[4] + 75, top + _HEIGHT), (x[4] + 75, low - 1))
    loop = arrow((x[2] + 75, low), (x[2] + 75, top + _HEIGHT + 1))
    rooms = [
        (ENVIRONMENT, "reward/: the environment"),
        (METHOD, "evil_moe/: the method"),
        (GLUE, "recipe/: verl, Ray, vLLM"),
        (GONE, "what is thrown away"),
    ]
    legend = []
    for i, (fill, name) in enumerate(rooms):
        left = 60 + 200 * i
        legend.append(f'<rect x="{left}" y="264" width="16" height="12" rx="3" fill="{fill}" {THIN}/>')
        legend.append(text(left + 24, 275, name, size=12, anchor="start", fill=SOFT))
    step = text(x[2] + 83, low - 20, "every step", size=12, anchor="start", fill=SOFT)
    title = "The path of the data, from problems over rollouts and the gate to deployment"
    return drawing(870, 290, title, [*boxes, *along, *back, turn, loop, step, *legend])


def adapter() -> str:
    """The forward of one Linear with two blocks and the weights of a rollout."""
    parts = [
        box(20, 122, 90, 56, "x", ["[B, T, D]"], GLUE),
        box(190, 20, 230, 62, "frozen Linear", ["W x"], GLUE),
        box(190, 112, 230, 78, "deployed block, rank r", ["value always on", "gradient times 1 - d"], METHOD),
        box(190, 220, 230, 78, "quarantine block, rank r", ["value and gradient", "times m"], GONE),
        box(500, 122, 90, 56, "sum", ["y"], GLUE),
        box(650, 20, 200, 78, "router", ["features of the rollout", "w = sigmoid(logit)"], METHOD),
        box(650, 220, 200, 78, "deployment", ["m = 0: the quarantine", "is back at its init"], GLUE),
        *(arrow((110, 150), (150, 150), (150, y), (189, y)) for y in (51, 259)),
        arrow((110, 150), (189, 150)),
        *(arrow((420, y), (460, y), (460, 150), (499, 150)) for y in (51, 259)),
        arrow((420, 150), (499, 150)),
        arrow((650, 72), (560, 72), (560, 98), (440, 98), (440, 130), (421, 130), dashed=True),
        arrow((750, 98), (750, 160), (620, 160), (620, 245), (421, 245), dashed=True),
        text(568, 66, "d = w", size=12, anchor="start", fill=SOFT),
        text(628, 200, "m = w", size=12, anchor="start", fill=SOFT),
    ]
    return drawing(
        870, 316, "One Linear with a deployed and a quarantine block, weighed by the router's w", parts
    )


def step() -> str:
    """One forward without gradient, and its three uses."""
    parts = [
        box(
            20,
            76,
            190,
            90,
            "old-log-prob pass",
            ["one forward without", "gradient over all", "rollouts of the step"],
            GLUE,
        ),
        box(290, 16, 190, 58, "w of each rollout", ["for the advantage"], METHOD),
        box(290, 92, 190, 58, "features", ["[B, M, r], stored"], METHOD),
        box(290, 168, 190, 58, "log-probs", ["of the feature state"], GLUE),
        box(570, 16, 280, 58, "router-weighted advantage", ["clean is compared with clean"], METHOD),
        box(570, 92, 280, 58, "gated update", ["w anew, now with gradient to v"], METHOD),
        box(570, 168, 280, 58, "log", ["entropy, and the distance to vLLM's own"], GLUE),
        *(arrow((210, 121), (250, 121), (250, y), (289, y)) for y in (45, 197)),
        arrow((210, 121), (289, 121)),
        *(arrow((480, y), (569, y)) for y in (45, 121, 197)),
    ]
    return drawing(870, 242, "One read of the rollouts, used three times", parts)


def drawn() -> dict[str, str]:
    """Every figure by its file name in `docs/img`."""
    return {"path.svg": path(), "adapter.svg": adapter(), "step.svg": step()}
