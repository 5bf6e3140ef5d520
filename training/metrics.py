"""How good, how varied and how original generated pictures are, from features (N, D); distances are Euclidean.

`real` are draws of the true distribution that nobody trained on, `fake` those of a generator, `training` the few pictures
that it was adapted to. Every figure comes as an Estimate: the value and its standard error.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

K = 5  # nearest neighbours
BLOCKS = 10  # of fakes, for standard errors
RESAMPLES = 20  # bootstrap


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error (NaN where it cannot be told)."""

    value: float
    error: float


def mean(values: Tensor) -> Estimate:
    """Mean of independent values (N,), and its standard error."""
    values = values.double()
    error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), error)


class _Given(nn.Module):
    """Stands where torchmetrics has its network: the features are already there."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def fid(real: Tensor, fake: Tensor, seed: int = 0) -> Estimate:
    """Frechet distance of Gaussians fitted to the features (Heusel et al. 2017), by torchmetrics; error by bootstrap of fakes.

    Biased upwards by about the number of features over that of samples: compare equal numbers only.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]), reset_real_features=False)
    metric.update(real, real=True)
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.arange(len(fake))]
    rows += [torch.randint(len(fake), (len(fake),), generator=generator) for _ in range(RESAMPLES)]
    values = []
    for some in rows:
        metric.reset()
        metric.update(fake[some], real=False)
        values.append(float(metric.compute()))
    return Estimate(values[0], float(torch.tensor(values[1:]).std()))


def kid(real: Tensor, fake: Tensor, real_kernel: float | None = None) -> Estimate:
    """Squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, unbiased (Binkowski et al. 2018, section 4).

    The fakes in BLOCKS parts against all real ones: the mean of the parts is unbiased, their spread gives the error.

    real_kernel: mean_kernel(real), where it is known.
    """
    from torchmetrics.image.kid import poly_kernel

    parts = fake.double().tensor_split(max(1, min(BLOCKS, len(fake) // 2)))
    cross = sum(
        torch.stack([poly_kernel(part, some.double()).sum() / len(part) for part in parts]) for some in real.split(1000)
    )
    own = torch.tensor([mean_kernel(part) for part in parts])
    return mean((mean_kernel(real) if real_kernel is None else real_kernel) + own - 2 * cross / len(real))


def mean_kernel(x: Tensor) -> float:
    """KID's kernel averaged over all pairs of different points of (N, D)."""
    from torchmetrics.image.kid import poly_kernel

    x = x.double()
    total = sum(poly_kernel(some, x).sum() for some in x.split(1000))  # 1000 rows at once: N x N would not fit
    return float(total - (x.square().mean(dim=1) + 1).pow(3).sum()) / (len(x) * (len(x) - 1))


def radii(x: Tensor, k: int = K) -> Tensor:
    """Distance (N,) of each point of (N, D) to its k-th nearest other."""
    k = min(k, len(x) - 1)
    return torch.cdist(x, x).kthvalue(k + 1, dim=1).values  # the nearest is the point itself


def manifold_metrics(real: Tensor, fake: Tensor, k: int = K) -> dict[str, Estimate]:
    """Precision and recall (Kynkaanniemi et al. 2019, equations 2 to 4), density and coverage (Naeem et al. 2020, eq. 4, 5).

    Take as many real as fake ones: the k-nearest-neighbour balls of more points are smaller.
    """
    near = torch.cdist(real, fake)
    real_radii, fake_radii = radii(real, k), radii(fake, k)
    in_real = near <= real_radii[:, None]
    return {
        "precision": mean(in_real.any(dim=0)),
        "recall": mean((near <= fake_radii).any(dim=1)),
        "density": mean(in_real.sum(dim=0) / k),
        "coverage": mean(in_real.any(dim=1)),
    }


def intra_cluster_diversity(fake: Tensor, training: Tensor) -> Estimate:
    """Mean distance of pairs of fakes that have the same nearest training picture (Ojha et al. 2021, section 4.2), averaged
    over those training pictures that have at least two. 0 is one picture again and again."""
    owner = torch.cdist(fake, training).argmin(dim=1)
    clusters = [fake[owner == i] for i in range(len(training))]
    means = [torch.pdist(cluster).mean() for cluster in clusters if len(cluster) > 1]
    return mean(torch.stack(means)) if means else Estimate(0.0, math.nan)


def copying(real: Tensor, fake: Tensor, training: Tensor, percentile: float = 0.01) -> Estimate:
    """Share of fakes that lie closer to a training picture than all but 1 % of true draws do.

    Fresh true draws have 1 %, the training pictures themselves 100 %.
    """
    closest = torch.cdist(real, training).amin(dim=1).quantile(percentile)
    return mean(torch.cdist(fake, training).amin(dim=1) < closest)


def data_copying(real: Tensor, fake: Tensor, training: Tensor, cells: int | None = None, least: int = 10) -> Estimate:
    """The data-copying statistic C_T (Meehan et al. 2020, section 3), a z-score: far below 0 is copying, above 0 is straying.

    In the cell of each training picture a Mann-Whitney test asks whether fakes lie nearer to it than real ones do; cells
    count by their share of real ones. Cells with fewer than `least` of either are left out. NaN where none is left.

    Args:
        cells: how many training pictures there are, where `training` has each several times (turned, say): row i is of
            picture i % cells. Default: each row is a picture of its own.
    """
    cells = cells or len(training)
    real_distance, real_row = torch.cdist(real, training).min(dim=1)
    fake_distance, fake_row = torch.cdist(fake, training).min(dim=1)
    total = weights = squares = 0.0
    for cell in range(cells):
        p, q = real_distance[real_row % cells == cell], fake_distance[fake_row % cells == cell]
        if min(len(p), len(q)) >= least:
            total += len(p) * mann_whitney_z(q, p)
            weights += len(p)
            squares += len(p) ** 2
    if not weights:
        return Estimate(math.nan, math.nan)
    return Estimate(total / weights, math.sqrt(squares) / weights)


def mann_whitney_z(x: Tensor, y: Tensor) -> float:
    """z-score of Mann and Whitney's U (1947): above 0 where x (M,) tends to be larger than y (N,). Ties count half."""
    order = y.sort().values
    below = torch.searchsorted(order, x, right=False) + torch.searchsorted(order, x, right=True)
    u, pairs = float(below.double().sum()) / 2, len(x) * len(y)
    return (u - pairs / 2) / math.sqrt(pairs * (len(x) + len(y) + 1) / 12)


def symmetry(images: Tensor) -> Estimate:
    """Mean of the best symmetry score among the orders 2 to 8 of pictures (N, 3, H, W) in [0, 1]; 1 is perfect."""
    from sharingan_hub import symmetry_score

    return mean(torch.cat([symmetry_score(some)[:, 1:].amax(dim=1) for some in images.split(128)]))


def deformation(images: Tensor) -> Estimate:
    """How far circles are out of round, in percent of the radius: the RMS of what `circularize` has to scale them by.

    NaN where it finds circles in no picture.
    """
    from sharingan_hub import circularize

    angles = torch.arange(64) * (2 * math.pi / 64)
    found = []
    for some in images.split(32):
        result = circularize(some)
        found.append(100 * result.scale.log(angles)[result.ok].square().mean(dim=1).sqrt())
    values = torch.cat(found)
    return mean(values) if len(values) else Estimate(math.nan, math.nan)
