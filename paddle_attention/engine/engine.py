"""The embedded engine: train, evaluate and infer from a PaddleClas YAML with ``paddle.Model``."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.static import InputSpec

from ..checkpoint import load_checkpoint
from ..config import ConfigError, check_config, move_class_num
from ..insertion import check_attention
from ..preprocess import Classification, probabilities
from .checkpoints import Checkpoints
from .data import build_loader, mixes_labels
from .data_check import check_class_names, check_class_num, check_images
from .evaluation import BadImages, Evaluation
from .loader import Loader
from .losses import CombinedLoss
from .metrics import Meters, check_classes, refuse_set_metrics, require_metric
from .optim import build_optimizer
from .processes import agree
from .scores import Metric, build_metrics
from .steps import LossGuard, Model, Position, RandomNumbers
from .training import Training

logger = logging.getLogger("ppcls")

# paddle.Model copies its batches this way itself.
warnings.filterwarnings("ignore", message="To copy construct from a tensor")


class Engine:
    """Runs one YAML.

    The whole configuration is checked and the network is built before any data is
    read, and the data before any weights; so a mistake ends the run early.

    Args:
        config (dict): the parsed YAML.
        build_network (callable): ``(config, mode) -> paddle.nn.Layer``.
        mode (str): ``'train'``, ``'eval'`` or ``'infer'``.
        on_step (callable, optional): called before every training step.
        on_epoch (callable, optional): called with the VisualDL writer, the network and the epoch at its
            end, where there is a writer.

    Raises:
        ConfigError: naming the key, for whatever the YAML asks that cannot be honoured.
    """

    def __init__(
        self,
        config: dict[str, Any],
        build_network: Callable[..., Any],
        mode: str,
        on_step: Callable[..., Any] | None = None,
        on_epoch: Callable[[Any, nn.Layer, int], None] | None = None,
    ) -> None:
        check_config(config, mode)
        self.config, self.mode, self.on_step, self.on_epoch = config, mode, on_step, on_epoch
        self.settings = config.get("Global") or {}
        self.output_dir = self.settings.get("output_dir") or "./output/"
        self._set_device()
        self.seed = self.settings.get("seed")
        if self.seed is not None:
            paddle.seed(self.seed)
            np.random.seed(self.seed % 2**32)
            random.seed(self.seed)
        move_class_num(config)
        self.class_num = config["Arch"].get("class_num")
        self.multilabel = bool(self.settings.get("use_multilabel"))
        self.evaluates = mode == "eval" or (mode == "train" and self.settings.get("eval_during_train", True))
        self.update_freq = self.settings.get("update_freq") or 1
        self.position, self.random = Position(), RandomNumbers(self.seed)
        self.checkpoints = Checkpoints(self.output_dir, self.settings.get("keep"))
        self.guard = LossGuard(self.settings.get("nan_policy"), self.output_dir, self.position)
        self.bad_images = BadImages(self.output_dir)
        self._checked: list[Loader] = []
        if self.settings.get("keep") and (self.settings.get("save_interval") or 1) < 1:
            logger.warning("Global.keep has no effect: with save_interval below 1 no epoch_N is written")
        self.network = build_network(config, mode)
        check_attention(self.network)
        self._build_data()
        self._build_meters()
        if mode == "infer":
            self.classification = Classification(config)
        self._load_pretrained()
        if mode == "train":
            self.training = Training(self)
        self._build_model()
        if self.evaluates:
            self.evaluation = Evaluation(
                self.model,
                self.meters,
                self.eval_loader,
                self._eval_precision,
                self.settings.get("print_batch_step") or 10,
                self.bad_images,
                self.training.should_stop if mode == "train" else bool,
            )

    # --- building ------------------------------------------------------------------------

    def _set_device(self) -> None:
        device = self.settings.get("device") or "gpu"
        if device == "gpu" and not paddle.is_compiled_with_cuda():
            raise ConfigError(
                "Global.device: 'gpu', but this Paddle is built for CPU; "
                "add -o Global.device=cpu or install paddlepaddle-gpu"
            )
        paddle.set_device(device)

    def _build_data(self) -> None:
        self.train_loader: Any = None  # a Loader where the mode trains
        self.eval_loader: Any = None  # one where it evaluates
        if self.mode == "train":
            self.train_loader = build_loader(self.config, "Train", self.class_num)
            if len(self.train_loader) < self.update_freq:
                raise ConfigError(
                    f"Global.update_freq: {self.update_freq} is more than the {len(self.train_loader)} "
                    "batches of an epoch"
                )
            self.steps = len(self.train_loader) // self.update_freq * self.update_freq
            self.train_loader.limit = self.steps
            self.guard.names = self.train_loader.names
        if self.evaluates:
            if not (self.config.get("DataLoader") or {}).get("Eval"):
                raise ConfigError("DataLoader.Eval: missing, but needed to evaluate")
            self.eval_loader = build_loader(self.config, "Eval", self.class_num)
        check_class_num(self.class_num, self._loaders(), self.network)
        check_class_names(self.config)

    def _loaders(self) -> dict[str, Loader]:
        """The loaders that this mode has, by their part of the YAML."""
        loaders = {"Train": self.train_loader, "Eval": self.eval_loader}
        return {part: loader for part, loader in loaders.items() if loader is not None}

    def check_data(self) -> None:
        """Read every image once; raises :class:`DataError` where some cannot be read."""
        count = check_images(self._loaders(), self.output_dir)
        logger.info(f"{count} images were read; all are good")

    def _build_meters(self) -> None:
        loss, metric = self.config.get("Loss") or {}, self.config.get("Metric") or {}
        losses: dict[str, CombinedLoss | None] = {"train": None, "eval": None}
        several = self.multilabel
        metrics: dict[str, list[Metric]] = {
            "train": [],
            "eval": build_metrics(metric.get("Eval"), "Metric.Eval", several),
        }
        if self.mode == "train":
            losses["train"] = CombinedLoss(loss["Train"], "Loss.Train", several)
            metrics["train"] = build_metrics(metric.get("Train"), "Metric.Train", several)
            refuse_set_metrics(metrics["train"], "Metric.Train")
            if metrics["train"] and mixes_labels(self.config):
                logger.warning("Metric.Train is left out: mixed labels have no accuracy")
                metrics["train"] = []
        if self.evaluates and loss.get("Eval"):
            losses["eval"] = CombinedLoss(loss["Eval"], "Loss.Eval", several)
        for mode, part in (("train", "Train"), ("eval", "Eval")):
            if (combined := losses[mode]) is not None:
                combined.check_ratio(part, self.config["DataLoader"][part]["dataset"])
        self.meters = Meters(losses, metrics)
        if self.evaluates:
            require_metric(self.meters)
        check_classes(self.meters, self.class_num, logger.warning)

    def _load_pretrained(self) -> None:
        path = self.settings.get("pretrained_model")
        if path is None:
            if self.mode != "train":
                raise ConfigError(
                    f"Global.pretrained_model: missing; give the checkpoint to {self.mode}, such as "
                    f"-o Global.pretrained_model={os.path.join(self.output_dir, 'best_model')}"
                )
            return
        training = self.mode == "train"
        report = load_checkpoint(self.network, path, skip_attention=training, skip_classifier=training)
        logger.info(f"Finish load pretrained model from {path}: {report}")

    def _build_model(self) -> None:
        self.average: Any = None
        self.optimizer: Any = None
        amp = self.config.get("AMP") or {}
        use_amp = amp.get("use_amp", True) if self.config.get("AMP") else False
        if use_amp and paddle.get_device() == "cpu":
            logger.warning("AMP has no effect on the CPU: Paddle computes in float32 there")
        level = amp.get("level", "O1")
        shape = [None, *(self.settings.get("image_shape") or [3, None, None])]
        inputs, labels = [InputSpec(shape, "float32", "x")], [InputSpec([None, 1], "int64", "label")]
        if self.settings.get("to_static"):
            self.network = paddle.jit.to_static(self.network, input_spec=inputs, full_graph=True)
        # PaddleClas evaluates in half precision only on request, and always after O2.
        half_eval = use_amp and (amp.get("use_fp16_test", False) or level == "O2")
        self._eval_precision = (
            (lambda: paddle.amp.auto_cast(level=level)) if half_eval else contextlib.nullcontext
        )
        if self.mode == "train":
            self.optimizer, self.schedule = build_optimizer(
                self.config, self.network, self.settings["epochs"], self.steps // self.update_freq
            )
        self.model = Model(self.network, inputs, labels)  # gives all processes the same weights
        if self.mode == "train" and self.config.get("EMA"):
            self.average = copy.deepcopy(self.network)
            self.average.eval()
        if use_amp and level == "O2" and self.mode == "train" and paddle.is_compiled_with_cuda():
            # paddle.Model would do this in prepare(), but then save half-precision checkpoints.
            paddle.amp.decorate(self.network, self.optimizer, level="O2", save_dtype="float32")
            self.model.mode = "eval"  # until the first training step: prepare() leaves O2 to us
        self.model.prepare(
            self.optimizer,
            self._loss,
            self.meters,
            amp_configs={
                "level": level,
                "init_loss_scaling": amp.get("scale_loss", 1.0),
                "use_dynamic_loss_scaling": amp.get("use_dynamic_loss_scaling", False),
            }
            if use_amp and self.mode == "train"
            else None,
        )
        self.model.watch(self._begin_step, self._end_update, self.guard)

    def _begin_step(self) -> None:
        self.random.start(self.position)

    def _end_update(self) -> None:
        self.training.state.note_update()

    def _loss(self, logits: Tensor, label: Tensor) -> Tensor:
        training = self.meters.mode == "train"
        if self.class_num is None:
            self._check_labels(self.train_loader if training else self.eval_loader, logits.shape[-1])
        loss = self.meters.loss(logits, label)
        if training:
            value = float(loss)
            bad, self.training.stopping = agree(not math.isfinite(value), self.training.stop.signal)
            if bad:
                self.guard.refuse(f"the loss is {value}")
        return loss / self.update_freq if self.update_freq > 1 else loss

    def _check_labels(self, loader: Loader, class_num: int) -> None:
        """The network's output shows its number of classes where the YAML does not give it."""
        if loader not in self._checked:
            self._checked.append(loader)
            loader.dataset.check_labels(int(class_num))

    # --- what it does --------------------------------------------------------------------

    @property
    def best(self) -> dict[str, Any]:
        """``metric`` and ``epoch`` of the best evaluation of a training."""
        return self.training.state.best

    def train(self) -> float:
        """Train from scratch or from ``Global.checkpoints``; returns the best value of the first metric.

        Raises:
            FolderInUseError: if another run has the output folder.
            Interrupted: after SIGTERM or Ctrl-C; the state is then in ``latest``.
            NonFiniteError: for a loss that is not finite, as ``Global.nan_policy`` says.
            DataError: naming the image, for one that cannot be read.
        """
        self.training.run()
        return self.best["metric"]

    def evaluate(self) -> dict[str, float]:
        """Evaluate ``Global.pretrained_model``.

        Returns:
            dict: losses and metrics by name.
        """
        with contextlib.closing(self.eval_loader):
            self.evaluation.run(0)
        return self.evaluation.results

    def infer(self) -> list[dict[str, Any]]:
        """Classify ``Infer.infer_imgs``; returns and logs a list of dicts, one per image."""
        results = []
        for batch in self.classification(self._predict):
            logger.info(batch)
            results += batch
        return results

    def _predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities of a batch."""
        with self._eval_precision():
            (logits,) = self.model.predict_batch([images])
        return probabilities(logits, self.multilabel)
