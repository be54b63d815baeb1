"""Fine-tunes the dense network as its pruned ones are, and says which of both the floor means.

A pruned network is fine-tuned and distilled. Where the dense one is not, the training's gain would
count as the pruning's: a checkpoint that never saw these images would "gain" by being pruned.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from cprune_rl.accuracy.final_gate import difference_interval
from cprune_rl.accuracy.training import TrainSettings
from cprune_rl.core.network import Plan
from cprune_rl.core.result import Which
from cprune_rl.pipeline.full_finetune import finetune_in_full
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.trained_model import TrainedModel

__all__ = ["DenseNetworks", "finetune_dense"]

# Of accuracy: a gain that is worth a word, where it is beyond the error of the images as well.
_MUCH = 0.005


@dataclass(frozen=True, kw_only=True)
class DenseNetworks:
    """The dense network as it was given, and after the full fine-tune.

    Attributes:
        given: the network that plans are pruned from. It is their teacher too.
        finetuned: the same after as long a training, with itself as the teacher; None where
            nothing can be better than the given one.
        given_accuracy: on the search images, in [0, 1].
        finetuned_accuracy: likewise; 0 where there is none.
        is_from_given: whether the floor is counted from the given one, be it better or not.
        train_s: seconds of the fine-tune; 0 where the cache had it before the run.
    """

    given: nn.Module
    finetuned: nn.Module | None
    given_accuracy: float
    finetuned_accuracy: float
    is_from_given: bool
    train_s: float

    @property
    def better(self) -> Which:
        """The more accurate one on the search images, which neither gate nor report uses."""
        is_finetuned = self.finetuned is not None and self.finetuned_accuracy > self.given_accuracy
        return "finetuned" if is_finetuned else "given"

    @property
    def accuracy(self) -> float:
        """Accuracy of the better one on the search images: losses are counted from it."""
        return max(self.given_accuracy, self.finetuned_accuracy)

    @property
    def counted_from(self) -> Which:
        """The one that the floor is counted from."""
        return "given" if self.is_from_given else self.better

    @property
    def reference(self) -> nn.Module:
        """The one that the floor is counted from, and that the gate compares with."""
        if self.counted_from == "finetuned" and self.finetuned is not None:
            return self.finetuned
        return self.given

    @property
    def other(self) -> nn.Module | None:
        """The one that is not the reference; None where there is no other."""
        return self.finetuned if self.counted_from == "given" else self.given

    @property
    def reference_accuracy(self) -> float:
        """Accuracy of the reference on the search images."""
        is_given = self.counted_from == "given"
        return self.given_accuracy if is_given else self.finetuned_accuracy


def finetune_dense(
    trained_model: TrainedModel,
    settings: TrainSettings,
    is_from_given: bool,
    since: float,
    progress: ProgressLog,
) -> DenseNetworks:
    """Fine-tune the dense network as long as pruned ones are, and in the same way.

    Where the labels are the dense network's own answers, nothing can agree with it better than
    itself: nothing is trained, and the floor is counted from it.

    Args:
        trained_model: the network as it was given.
        settings: of the full fine-tune.
        is_from_given: see `DenseNetworks`.
        since: when the run began, in seconds since the epoch. A training that the cache got later
            is charged.
        progress: is told what the fine-tune gains.
    """
    if trained_model.trainer.is_agreement:
        return DenseNetworks(
            given=trained_model.model,
            finetuned=None,
            given_accuracy=trained_model.dense_accuracy,
            finetuned_accuracy=0.0,
            is_from_given=True,
            train_s=0.0,
        )
    dense = Plan(tuple(group.channels for group in trained_model.coupled.groups))
    what = "Fine-tuning the dense network"
    finished = finetune_in_full(trained_model, dense, settings, progress, what)
    before = trained_model.trainer.judge(trained_model.model, "search")
    after = trained_model.trainer.judge(finished.model, "search")
    networks = DenseNetworks(
        given=trained_model.model,
        finetuned=finished.model,
        given_accuracy=float(before.mean()),
        finetuned_accuracy=float(after.mean()),
        is_from_given=is_from_given,
        train_s=finished.cached.train_s(since),
    )
    is_certain = difference_interval(after, before).low > 0
    _tell(networks, settings.n_steps, is_certain, progress)
    return networks


def _tell(networks: DenseNetworks, n_steps: int, is_certain: bool, progress: ProgressLog) -> None:
    """Print what the fine-tune gains, and what to do about it where it is much."""
    from_which = {"given": "as it was given", "finetuned": "after it"}[networks.counted_from]
    progress.print(
        f"    After the fine-tune of {n_steps:,} steps that pruned networks get, it is "
        f"{networks.finetuned_accuracy:.2%}: the floor is counted from the network {from_which}"
    )
    gain = networks.finetuned_accuracy - networks.given_accuracy
    if gain < _MUCH or not is_certain:
        return
    advice = "train it further and give it by --weights"
    if networks.is_from_given:
        consequence = "--floor-from given counts them as room to prune; leave it out, or"
    else:
        consequence = "--floor-from given would count them as room to prune; better"
    progress.print(
        f"    The fine-tune gains {100 * gain:.1f} points on the dense network, so it was not "
        f"trained to its end on these images: {consequence} {advice}"
    )
