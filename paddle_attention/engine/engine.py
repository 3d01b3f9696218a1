"""The embedded engine: train, evaluate and infer from a PaddleClas YAML with ``paddle.Model``."""

import contextlib
import copy
import itertools
import logging
import os
import random
import sys
import time
import warnings

import numpy as np
import paddle
from paddle.static import InputSpec
from tqdm.contrib.logging import logging_redirect_tqdm

from ..weights import load_weights, read_file, read_state_dict, save_files, set_weights
from .callbacks import EpochEnd, FreezeBackbone, Log, MovingAverage, StepSchedule, format_values
from .config import ConfigError, check_config, move_class_num
from .data import build_loader, mixes_labels
from .infer import TopkPostProcess, list_images, read_batches
from .losses import CombinedLoss
from .metrics import Meters, check_classes, parse_topk, require_metric
from .optim import build_optimizer
from .transforms import build_transforms

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

    Raises:
        ConfigError: naming the key, for whatever the YAML asks that cannot be honoured.
    """

    def __init__(self, config, build_network, mode, on_step=None):
        check_config(config, mode)
        self.config, self.mode, self.on_step = config, mode, on_step
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
        self.evaluates = mode == "eval" or (mode == "train" and self.settings.get("eval_during_train", True))
        self.update_freq = self.settings.get("update_freq") or 1
        self.network = build_network(config, mode)
        self._build_data()
        self._build_meters()
        if mode == "infer":
            self.transform = build_transforms(config["Infer"]["transforms"], "Infer.transforms")
            self.postprocess = TopkPostProcess.from_config(config)
        self._load_pretrained()
        self._build_model()

    # --- building ------------------------------------------------------------------------

    def _set_device(self):
        device = self.settings.get("device") or "gpu"
        if device == "gpu" and not paddle.is_compiled_with_cuda():
            raise ConfigError(
                "Global.device: 'gpu', but this Paddle is built for CPU; "
                "add -o Global.device=cpu or install paddlepaddle-gpu"
            )
        paddle.set_device(device)

    def _build_data(self):
        self.train_loader = self.eval_loader = None
        if self.mode == "train":
            self.train_loader = build_loader(self.config, "Train", self.class_num)
            if len(self.train_loader) < self.update_freq:
                raise ConfigError(
                    f"Global.update_freq: {self.update_freq} is more than the {len(self.train_loader)} "
                    "batches of an epoch"
                )
            self.steps = len(self.train_loader) // self.update_freq * self.update_freq
        if self.evaluates:
            if not (self.config.get("DataLoader") or {}).get("Eval"):
                raise ConfigError("DataLoader.Eval: missing, but needed to evaluate")
            self.eval_loader = build_loader(self.config, "Eval")

    def _build_meters(self):
        loss, metric = self.config.get("Loss") or {}, self.config.get("Metric") or {}
        losses = {"train": None, "eval": None}
        topk = {"train": [], "eval": parse_topk(metric.get("Eval"), "Metric.Eval")}
        if self.mode == "train":
            losses["train"] = CombinedLoss(loss["Train"], "Loss.Train")
            topk["train"] = parse_topk(metric.get("Train"), "Metric.Train")
            if topk["train"] and mixes_labels(self.config):
                logger.warning("Metric.Train is left out: mixed labels have no accuracy")
                topk["train"] = []
        if self.evaluates and loss.get("Eval"):
            losses["eval"] = CombinedLoss(loss["Eval"], "Loss.Eval")
        self.meters = Meters(losses, topk)
        if self.evaluates:
            require_metric(self.meters)
        check_classes(self.meters, self.class_num, logger.warning)

    def _load_pretrained(self):
        path = self.settings.get("pretrained_model")
        if path is None:
            if self.mode != "train":
                raise ConfigError(
                    f"Global.pretrained_model: missing; give the checkpoint to {self.mode}, such as "
                    f"-o Global.pretrained_model={os.path.join(self.output_dir, 'best_model')}"
                )
            return
        training = self.mode == "train"
        report = load_weights(self.network, path, skip_attention=training, skip_classifier=training)
        logger.info(f"Finish load pretrained model from {path}: {report}")

    def _build_model(self):
        self.average = self.optimizer = None
        amp = self.config.get("AMP") or {}
        use_amp = amp.get("use_amp", True) if self.config.get("AMP") else False
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
        self.model = paddle.Model(self.network, inputs, labels)  # gives all processes the same weights
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
        rank = paddle.distributed.get_rank()
        if self.seed is not None and rank:
            paddle.seed(self.seed + rank)
            np.random.seed((self.seed + rank) % 2**32)
            random.seed(self.seed + rank)

    def _loss(self, logits, label):
        loss = self.meters.loss(logits, label)
        return loss / self.update_freq if self.update_freq > 1 else loss

    # --- training ------------------------------------------------------------------------

    def train(self):
        """Train from scratch or from ``Global.checkpoints``; returns the best ``top1``."""
        epochs = self.settings["epochs"]
        first = self._resume() + 1
        if first > epochs:
            logger.info(f"nothing to train: the checkpoint is of epoch {first - 1} of {epochs}")
            return self.best["metric"]
        writer = None
        if self.settings.get("use_visualdl") and paddle.distributed.get_rank() == 0:
            from visualdl import LogWriter

            writer = LogWriter(logdir=self.output_dir)
        self.writer = writer
        self.meters.mode = "train"
        callbacks = [
            Log(
                self.meters,
                self.schedule,
                first,
                epochs,
                self.steps,
                self.settings.get("print_batch_step") or 10,
                writer,
                self.settings.get("print_mem_info"),
                self.on_step,
            ),
            StepSchedule(self.schedule, self.update_freq),
        ]
        frozen = self.settings.get("freeze_backbone_epochs") or 0
        if frozen >= first:
            callbacks.append(FreezeBackbone(self.network, self.optimizer, frozen - first + 1))
        if self.average is not None:
            decay = self.config["EMA"].get("decay", 0.9999)
            callbacks.append(MovingAverage(self.network, self.average, decay, self.update_freq))
        callbacks.append(EpochEnd(self, first))
        try:
            # On a screen, log lines go above the progress bar.
            screen = sys.stderr.isatty()
            with logging_redirect_tqdm([logger]) if screen else contextlib.nullcontext():
                self.model.fit(
                    _FirstBatches(self.train_loader, self.steps),
                    epochs=epochs - first + 1,
                    verbose=0,
                    callbacks=callbacks,
                    accumulate_grad_batches=self.update_freq,
                )
        finally:
            if writer is not None:
                writer.close()
        return self.best["metric"]

    def end_epoch(self, epoch, averages):
        """Evaluate if it is time to, and write ``best_model``, ``epoch_N`` and ``latest``."""
        epochs = self.settings["epochs"]
        logger.info(f"[Train][Epoch {epoch}/{epochs}][Avg]{format_values(averages)}")
        accuracy = 0.0
        if self.evaluates and epoch % (self.settings.get("eval_interval") or 1) == 0:
            accuracy = self._evaluate(epoch)
            saved = accuracy
            if self.average is not None:  # which is what the checkpoint holds
                self.model.network = self.average
                try:
                    saved = self._evaluate(epoch)
                finally:
                    self.model.network = self.network
            if saved >= self.best["metric"]:
                self.best = {"metric": saved, "epoch": epoch}
                self._save("best_model", self.best)
            kind = "best metric" if self.average is None else "best metric ema"
            logger.info(f"[Eval][Epoch {epoch}][{kind}: {self.best['metric']}]")
            if self.writer is not None:
                self.writer.add_scalar(tag="eval_acc", step=epoch, value=accuracy)
        info = {"metric": accuracy, "epoch": epoch}
        interval = self.settings.get("save_interval", 1)
        if interval > 0 and epoch % interval == 0:
            self._save(f"epoch_{epoch}", info)
        self._save("latest", info)
        self.meters.mode = "train"

    def _save(self, name, info):
        """Write a checkpoint; ``.pdstates`` comes last, so that it is there only if the rest is."""
        if paddle.distributed.get_rank() != 0:
            return
        prefix = os.path.join(self.output_dir, name)
        if self.average is not None:  # as in PaddleClas: the average is the model
            files = {".pdema": self.network.state_dict(), ".pdparams": self.average.state_dict()}
        else:
            files = {".pdparams": self.network.state_dict()}
        files |= {".pdopt": self.optimizer.state_dict(), ".pdstates": info}
        save_files({prefix + ending: value for ending, value in files.items()})
        logger.info(f"Already save model in {prefix}")

    def _resume(self):
        """Restore ``Global.checkpoints``; returns the epoch it was written after, or 0."""
        self.best = {"metric": -1.0, "epoch": 0}
        prefix = self.settings.get("checkpoints")
        if prefix is None:
            return 0
        states = read_file(prefix + ".pdstates")
        optimizer = read_file(prefix + ".pdopt")
        weights = read_state_dict(prefix + ".pdparams")
        if self.average is not None:
            set_weights(self.average, weights, prefix + ".pdparams")
            weights = read_state_dict(prefix + ".pdema")
        set_weights(self.network, weights, prefix)
        self.optimizer.set_state_dict(optimizer[0] if isinstance(optimizer, list) else optimizer)
        epoch = states["epoch"]
        best = os.path.join(self.output_dir, "best_model.pdstates")
        if os.path.isfile(best):
            self.best = {**read_file(best)}
            self.best["metric"] = float(self.best["metric"])
        if hasattr(self.train_loader.batch_sampler, "set_epoch"):
            self.train_loader.batch_sampler.set_epoch(epoch)
        logger.info(f"Finish load checkpoints from {prefix}, epoch {epoch}")
        return epoch

    # --- evaluation and inference --------------------------------------------------------

    def evaluate(self):
        """Evaluate ``Global.pretrained_model``.

        Returns:
            dict: average losses and accuracies by name.
        """
        self._evaluate(0)
        return self.results

    def _evaluate(self, epoch):
        """Run the evaluation set; keeps ``results`` and returns the first accuracy."""
        self.meters.mode = "eval"
        self._share_statistics()
        every = self.settings.get("print_batch_step") or 10
        follow = _EvalLog(self, epoch, every, len(self.eval_loader))
        with paddle.no_grad(), self._eval_precision():
            self.model.evaluate(self.eval_loader, verbose=0, callbacks=[follow])
        self.results = follow.averages
        logger.info(f"[Eval][Epoch {epoch}][Avg]{format_values(self.results)}")
        return self.results[f"top{self.meters.topk['eval'][0]}"]

    def _share_statistics(self):
        """Give every process the running statistics of the first, which are those that are saved."""
        if paddle.distributed.get_world_size() > 1:
            for value in [*self.model.network.parameters(), *self.model.network.buffers()]:
                if value.stop_gradient:
                    paddle.distributed.broadcast(value, 0)

    def infer(self):
        """Classify ``Infer.infer_imgs``; returns and logs a list of dicts, one per image."""
        section = self.config["Infer"]
        if not section.get("infer_imgs"):
            raise ConfigError("Infer.infer_imgs: missing; give an image or a folder")
        results = []
        paths = list_images(section["infer_imgs"])
        for names, images in read_batches(paths, self.transform, section.get("batch_size") or 1):
            with self._eval_precision():
                (logits,) = self.model.predict_batch([images])
            shifted = np.exp(logits.astype("float64") - logits.max(axis=-1, keepdims=True))
            batch = self.postprocess(shifted / shifted.sum(axis=-1, keepdims=True), names)
            logger.info(batch)
            results += batch
        return results


class _EvalLog(paddle.callbacks.Callback):
    """PaddleClas' evaluation log lines; keeps the averages, which ``paddle.Model`` resets."""

    def __init__(self, engine, epoch, every, steps):
        super().__init__()
        self.engine, self.epoch, self.every, self.steps = engine, epoch, every, steps
        self.ready, self.cost, self.reader, self.batches = time.perf_counter(), 0.0, 0.0, 0

    def on_eval_batch_begin(self, step, logs=None):
        self.reader += time.perf_counter() - self.ready

    def on_eval_batch_end(self, step, logs=None):
        meters = self.engine.meters
        self.averages = meters.averages()
        self.cost += time.perf_counter() - self.ready
        self.batches += 1
        if step % self.every == 0:
            cost = self.cost / self.batches
            logger.info(
                f"[Eval][Epoch {self.epoch}][Iter: {step}/{self.steps}]{format_values(meters.latest)}, "
                f"batch_cost: {cost:.5f}s, reader_cost: {self.reader / self.batches:.5f}, "
                f"ips: {logs['batch_size'] / cost:.5f} images/sec"
            )
        self.ready = time.perf_counter()


class _FirstBatches:
    """The first ``steps`` batches of every epoch of a loader."""

    def __init__(self, loader, steps):
        self.loader, self.steps = loader, steps

    def __len__(self):
        return self.steps

    def __iter__(self):
        return itertools.islice(iter(self.loader), self.steps)
