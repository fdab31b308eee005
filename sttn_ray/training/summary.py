"""What a run's folder says of it, for a person."""

from sttn_ray.errors import StorageError
from sttn_ray.paths import StoragePath
from sttn_ray.storage import read_record
from sttn_ray.training.checkpoints import find_checkpoints
from sttn_ray.training.metrics import read_metrics

_TREND_LINES = 5  # of the metrics, spread over the run


def summarize(run_dir: StoragePath) -> str:
    """A run's state, losses and validations, as text.

    Raises:
        StorageError: there is no run.
    """
    settings = read_record(run_dir / "run.json")
    if settings is None:
        raise StorageError(f"{run_dir}: holds no training: no run.json in it")
    done = read_record(run_dir / "done.json")
    lines = read_metrics(run_dir / "metrics.jsonl")
    checkpoints = find_checkpoints(run_dir)
    state = f"done at step {done['step']}" if done else "not finished; the same command goes on"
    told = [f"{run_dir}: {state}", f"network {settings.get('model.preset')}, {len(lines)} lines of metrics"]
    if not lines:
        return "\n".join([*told, "no step was logged yet", ""])
    told.append("      step      hole     valid  adversarial  discriminator  steps/s   wait")
    count = min(_TREND_LINES, len(lines))
    for number in sorted({round(n * (len(lines) - 1) / max(count - 1, 1)) for n in range(count)}):
        line = lines[number]
        told.append(
            f"{line['step']:10d} {line['hole']:9.4f} {line['valid']:9.4f} {line['adversarial']:+12.3f} "
            f"{line['discriminator']:14.3f} {line['steps_per_s']:8.2f} {line['data_wait_share']:6.1%}"
        )
    found = [line for line in lines if "validation_hole_psnr" in line]
    best = read_record(run_dir / "best.json")
    if found:
        last = found[-1]
        told.append(
            f"last validation, step {last['step']}: hole {last['validation_hole_psnr']:.2f} dB, "
            f"all {last['validation_psnr']:.2f} dB, SSIM {last['validation_ssim']:.4f}"
        )
    if best:
        told.append(f"best validation, step {best['step']}: hole {best['hole_psnr']:.2f} dB: {run_dir / 'best.pt'}")
    told.append(f"checkpoints: {', '.join(checkpoints) or 'none'}")
    return "\n".join([*told, ""])
