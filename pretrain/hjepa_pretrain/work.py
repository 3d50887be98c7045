"""How much arithmetic a run's steps do per second, and which share of the device's peak that is."""

from __future__ import annotations

from hjepa_eval.encoders.matmul_peak import matmul_peak
from hjepa_pretrain.measuring import step_gflop
from hjepa_pretrain.trainer import Trainer


class Work:
    """Arithmetic of a step and peak of the device, measured once, by the leader.

    Attributes:
        gflop: of one step, over all ranks; None before it was counted.
        peak: TFLOP/s of matrix products on this device in this session; None before it was measured.
    """

    def __init__(self, gflop: float | None = None) -> None:
        """Go on with what an earlier session counted."""
        self.gflop = gflop
        self.peak: float | None = None

    def measure(self, trainer: Trainer, *, progress: float) -> None:
        """Count and measure what is not known yet."""
        if self.gflop is None:
            self.gflop = step_gflop(trainer, progress=progress)
        if self.peak is None:
            self.peak = matmul_peak(trainer.device, trainer.precision)

    def at(self, steps_per_second: float, *, ranks: int) -> dict[str, float]:
        """Return JSON values for a speed: `step_gflop`, `tflops_per_second`, `peak_tflops_per_second`, and `mfu`.

        The peak is that of one rank. The last is the model FLOPs utilisation, the share of all ranks' peak that the
        matrix products of steps take. Other programs on the machine lower both. What is not known yet is left out.

        Source: PaLM (Chowdhery et al. 2022), appendix B. Deviation: the peak is measured, not the data sheet's.
        """
        if self.gflop is None:
            return {}
        rate = self.gflop * steps_per_second / 1e3
        found = {"step_gflop": round(self.gflop, 3), "tflops_per_second": round(rate, 4)}
        if self.peak is None:
            return found
        share = rate / (self.peak * ranks)
        return {**found, "peak_tflops_per_second": round(self.peak, 4), "mfu": round(share, 4)}
