"""A callback that scores the validation and test batches of any LightningModule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cleval_tm.metric import CLEvalMetric
from cleval_tm.rules import CLEvalRules

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    try:
        from lightning.pytorch import Callback, LightningModule, Trainer
    except ImportError:
        from pytorch_lightning import Callback, LightningModule, Trainer

Extract = Callable[[Any, Any], tuple[Sequence[Any], Any]]


class CLEvalCallback(Callback):
    """CLEval of validation and test epochs, logged under ``{prefix}/{score}``.

    Each dataloader has its own scores; with several of them, under ``{prefix}/dataloader_{i}/{score}``.
    ``ModelCheckpoint(monitor="val/det_hmean")`` and ``EarlyStopping`` find them. Under DDP they are those of
    all ranks; give the targets an ``"image_id"``, so that images that the sampler repeats count once.

    Args:
        extract: ``extract(outputs, batch) -> (preds, target)``: from what ``validation_step`` (``test_step``)
            returned and its batch, what :meth:`cleval_tm.CLEvalMetric.update` takes.
        prefix: of the names in validation.
        test_prefix: of the names in testing.
        rules: a rule set's name or a :class:`~cleval_tm.CLEvalRules`.
        metric_options: further arguments of :class:`~cleval_tm.CLEvalMetric` (``e2e``, ``scale_bins``, ...);
            with ``score``, that score alone is logged.

    Example:
        >>> from cleval_tm.lightning import CLEvalCallback
        >>> callback = CLEvalCallback(lambda outputs, batch: (outputs["preds"], batch["target"]), e2e=False)
        >>> callback.metric().score_names[:2]
        ('det_recall', 'det_precision')
    """

    def __init__(
        self,
        extract: Extract,
        prefix: str = "val",
        test_prefix: str = "test",
        rules: str | CLEvalRules = "v2023",
        **metric_options: Any,
    ) -> None:
        super().__init__()
        if not callable(extract):
            raise TypeError(f"Expected argument `extract` to be callable but got {extract!r}")
        self.extract = extract
        self.prefixes = {"val": prefix, "test": test_prefix}
        self.rules = rules
        self.metric_options = metric_options
        self.metrics: list[CLEvalMetric] = []
        self.metric()  # wrong options are an error here, not after an epoch

    def metric(self) -> CLEvalMetric:
        """A new metric with the callback's options."""
        return CLEvalMetric(self.rules, **self.metric_options)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with an empty metric for each dataloader, on the module's device."""
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._start(batches, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with an empty metric for each dataloader, on the module's device."""
        self._start(trainer.num_test_batches, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch."""
        self.metrics[dataloader_idx].update(*self.extract(outputs, batch))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch."""
        self.metrics[dataloader_idx].update(*self.extract(outputs, batch))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores."""
        self._log("val", pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores."""
        self._log("test", pl_module)

    def _start(self, batches: Sequence[int | float] | int | float, pl_module: LightningModule) -> None:
        # a rank whose dataloader is empty has a metric all the same: all ranks must meet in the sync
        count = len(batches) if isinstance(batches, Sequence) else 1
        self.metrics = [self.metric().to(pl_module.device) for _ in range(count)]

    def _log(self, stage: str, pl_module: LightningModule) -> None:
        for index, metric in enumerate(self.metrics):
            loader = f"dataloader_{index}/" if len(self.metrics) > 1 else ""
            result = metric.compute()
            scores = result if isinstance(result, dict) else {metric.score: result}
            named = {f"{self.prefixes[stage]}/{loader}{name}": value for name, value in scores.items()}
            # the values are those of all ranks already; their maximum is the same bits, and keeps Lightning
            # from warning that they were not reduced
            pl_module.log_dict(named, sync_dist=True, reduce_fx="max", add_dataloader_idx=False, batch_size=1)
        self.metrics = []
