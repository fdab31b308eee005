"""What training sees, as one picture."""

from sttn_ray.report.page import Sheet, marked, tiled
from sttn_ray.training.data import ClipDataset


def sample_sheet(dataset: ClipDataset, num_samples: int = 6) -> Sheet:
    """The first samples of a training, a row each, with their holes in red."""
    samples = (dataset[position] for position in range(num_samples))
    rows = [[marked(*pair) for pair in zip(frames, masks > 0, strict=True)] for _, frames, masks in samples]
    return Sheet("Training samples", "A row a sample; its hole in red.", tiled(rows))
