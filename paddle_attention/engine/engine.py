"""The embedded engine: train, evaluate and infer from a PaddleClas YAML with ``paddle.Model``."""

import contextlib
import copy
import logging
import math
import os
import random
import signal
import sys
import time
import warnings

import numpy as np
import paddle
from paddle.static import InputSpec
from tqdm.contrib.logging import logging_redirect_tqdm

from ..checkpoint import load_checkpoint, set_weights
from ..config import ConfigError, DataError, check_config, move_class_num
from ..files import FolderLock
from ..interrupt import Interrupted, StopRequest
from ..preprocess import TopkPostProcess, build_transforms, list_images, read_batches
from .callbacks import EpochEnd, FreezeBackbone, Log, MovingAverage, StepEnd, StepSchedule, format_values
from .checkpoints import (
    BEST,
    LATEST,
    Checkpoints,
    describe_progress,
    load_optimizer,
    read_checkpoint,
    section_hashes,
)
from .data import build_loader, mixes_labels
from .losses import CombinedLoss
from .metrics import Meters, check_classes, parse_topk, require_metric
from .optim import build_optimizer
from .steps import LossGuard, Model, Position, RandomNumbers

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
        self.position, self.random = Position(), RandomNumbers(self.seed)
        self.checkpoints = Checkpoints(self.output_dir, self.settings.get("keep"))
        self.guard = LossGuard(self.settings.get("nan_policy"), self.output_dir, self.position)
        self.stop, self.stopping = StopRequest(), 0  # the signal that came here, and what all agreed on
        self.writer, self.listed, self._resumed, self._checked = None, set(), None, []
        self._updated = False
        if self.settings.get("keep") and (self.settings.get("save_interval") or 1) < 1:
            logger.warning("Global.keep has no effect: with save_interval below 1 no epoch_N is written")
        self.network = build_network(config, mode)
        self._build_data()
        self._build_meters()
        if mode == "infer":
            self.transform = build_transforms(
                config["Infer"]["transforms"], "Infer.transforms", self.settings.get("max_image_pixels")
            )
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
            self.train_loader.limit = self.steps
            self.guard.names, self.train_loader.on_wait = self.train_loader.names, self._stop_waiting
        if self.evaluates:
            if not (self.config.get("DataLoader") or {}).get("Eval"):
                raise ConfigError("DataLoader.Eval: missing, but needed to evaluate")
            self.eval_loader = build_loader(self.config, "Eval", self.class_num)

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
        report = load_checkpoint(self.network, path, skip_attention=training, skip_classifier=training)
        logger.info(f"Finish load pretrained model from {path}: {report}")

    def _build_model(self):
        self.average = self.optimizer = None
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

    def _begin_step(self):
        self.random.start(self.position)

    def _end_update(self):
        self._resumed, self._updated = None, True

    def _loss(self, logits, label):
        training = self.meters.mode == "train"
        if self.class_num is None:
            self._check_labels(self.train_loader if training else self.eval_loader, logits.shape[-1])
        loss = self.meters.loss(logits, label)
        if training:
            value = float(loss)
            bad, self.stopping = self._agree(not math.isfinite(value), self.stop.signal)
            if bad:
                self.guard.refuse(f"the loss is {value}")
        return loss / self.update_freq if self.update_freq > 1 else loss

    def _check_labels(self, loader, class_num):
        """The network's output shows its number of classes where the YAML does not give it."""
        if loader not in self._checked:
            self._checked.append(loader)
            loader.dataset.check_labels(int(class_num))

    @staticmethod
    def _agree(*numbers):
        """The largest of every number over all processes, so that they stop and skip together."""
        if paddle.distributed.get_world_size() == 1:
            return numbers
        together = paddle.to_tensor([float(n) for n in numbers])
        paddle.distributed.all_reduce(together, op=paddle.distributed.ReduceOp.MAX)
        return [int(n) for n in together.numpy()]

    # --- training ------------------------------------------------------------------------

    def train(self):
        """Train from scratch or from ``Global.checkpoints``; returns the best ``top1``.

        Raises:
            FolderInUseError: if another run has the output folder.
            Interrupted: after SIGTERM or Ctrl-C; the state is then in ``latest``.
            NonFiniteError: for a loss that is not finite, as ``Global.nan_policy`` says.
            DataError: naming the image, for one that cannot be read.
        """
        first_rank = paddle.distributed.get_rank() == 0
        lock = FolderLock(self.output_dir, "training") if first_rank else contextlib.nullcontext()
        with lock, self.stop, contextlib.ExitStack() as closing:
            for loader in (self.train_loader, self.eval_loader):
                if loader is not None:
                    closing.callback(loader.close)
            if first_rank:
                self.checkpoints.clean()
            self._share_seed()
            pending = self._resume()
            self._require_agreement()
            self.train_loader.seed = (self.random.seed,)
            self.train_loader.epoch, self.train_loader.first = self.position.epoch, self.position.step
            if self.settings.get("use_visualdl") and first_rank:
                from visualdl import LogWriter

                self.writer = closing.enter_context(LogWriter(logdir=self.output_dir))
            if pending is not None:
                self.end_epoch(self.position.epoch - 1, pending)
            done, epochs = self.position.epoch - 1, self.settings["epochs"]
            if done < epochs:
                self._fit()
            elif pending is None:
                logger.info(f"nothing to train: the checkpoint is of epoch {done} of {epochs}")
                self._save_latest_again(done)
        return self.best["metric"]

    def _require_agreement(self):
        """All processes must go on at one place: each reads the checkpoint by itself."""
        epoch, step = self.position.epoch, self.position.step
        latest, earliest, last, first = self._agree(epoch, -epoch, step, -step)
        if (latest, last) != (-earliest, -first):
            raise ConfigError(
                "Global.checkpoints: the processes found different checkpoints (epochs "
                f"{-earliest - 1} to {latest - 1}); output_dir must be one folder for all of them"
            )

    def _fit(self):
        self.meters.mode = "train"
        callbacks = self._callbacks()
        try:
            # On a screen, log lines go above the progress bar.
            screen = sys.stderr.isatty()
            with logging_redirect_tqdm([logger]) if screen else contextlib.nullcontext():
                self.model.fit(
                    self.train_loader,
                    epochs=self.settings["epochs"] - self.position.epoch + 1,
                    verbose=0,
                    callbacks=callbacks,
                    accumulate_grad_batches=self.update_freq,
                )
        finally:
            for callback in callbacks:
                if hasattr(callback, "release"):
                    callback.release()

    def _callbacks(self):
        epochs, first = self.settings["epochs"], self.position.epoch
        callbacks = [
            Log(
                self.meters,
                self.schedule,
                self.position,
                epochs,
                self.steps,
                self.settings.get("print_batch_step") or 10,
                self.writer,
                self.settings.get("print_mem_info"),
                self.on_step,
            ),
            StepSchedule(self.schedule, self.position, self.update_freq),
        ]
        frozen = self.settings.get("freeze_backbone_epochs") or 0
        if frozen >= first:
            callbacks.append(FreezeBackbone(self.network, self.optimizer, frozen - first + 1))
        if self.average is not None:
            decay = self.config["EMA"].get("decay")
            decay = 0.9999 if decay is None else decay
            callbacks.append(
                MovingAverage(self.network, self.average, decay, self.position, self.update_freq)
            )
        return [*callbacks, StepEnd(self), EpochEnd(self)]

    def end_step(self):
        """Save if it is time to, or if the run is to stop; the end of an epoch does it by itself."""
        if self.position.step % self.update_freq or self.position.step == self.steps:
            return
        if paddle.distributed.get_world_size() == 1:
            self.stopping = self.stop.signal
        every = self.settings.get("save_steps")
        updates = self.position.step // self.update_freq
        if self.stopping:
            self._save(LATEST, {"metric": 0.0, "epoch": self.position.epoch - 1})
            self._interrupt()
        elif every and updates % every == 0:
            self._save(LATEST, {"metric": 0.0, "epoch": self.position.epoch - 1})

    def end_epoch(self, epoch, averages):
        """Evaluate if it is time to, and write ``best_model``, ``epoch_N`` and ``latest``."""
        epochs = self.settings["epochs"]
        self.position.epoch, self.position.step = epoch + 1, 0
        logger.info(f"[Train][Epoch {epoch}/{epochs}][Avg]{format_values(averages)}")
        self._list_skipped(self.train_loader)
        accuracy = 0.0
        if self.evaluates and epoch % (self.settings.get("eval_interval") or 1) == 0:
            try:
                accuracy = self._evaluate_epoch(epoch, averages)
            except Exception as error:  # a stop, or an image that cannot be read: the epoch is not lost
                self._save(LATEST, {"metric": 0.0, "epoch": epoch}, pending=averages)
                if isinstance(error, _StopEvaluation):
                    self._interrupt()
                raise
        info = {"metric": accuracy, "epoch": epoch}
        interval = self.settings.get("save_interval", 1)
        if interval is None or (interval > 0 and epoch % interval == 0):
            self._save(f"epoch_{epoch}", info)
        self._save(LATEST, info)
        self.meters.mode = "train"
        (self.stopping,) = self._agree(self.stop.signal)
        if self.stopping and epoch < epochs:
            self._interrupt()

    def _evaluate_epoch(self, epoch, averages):
        """Evaluate the network and its average, and keep the best; returns the network's accuracy.

        A run that goes on from the best evaluates again, and so writes what else belongs to the epoch.
        """
        accuracy = saved = self._evaluate(epoch)
        if self.average is not None:  # which is what the checkpoint holds
            self.model.network = self.average
            try:
                saved = self._evaluate(epoch)
            finally:
                self.model.network = self.network
        if saved >= self.best["metric"]:
            self.best = {"metric": saved, "epoch": epoch}
            self._save(BEST, self.best, pending=averages)
        kind = "best metric" if self.average is None else "best metric ema"
        logger.info(f"[Eval][Epoch {epoch}][{kind}: {self.best['metric']}]")
        if self.writer is not None:
            self.writer.add_scalar(tag="eval_acc", step=epoch, value=accuracy)
        return accuracy

    def _save_latest_again(self, epoch):
        """A run that was killed between its last ``epoch_N`` and ``latest`` has an older ``latest``."""
        facts = self.checkpoints.facts(LATEST)
        if (
            self._resumed is not None
            and facts
            and facts["run"] == self.checkpoints.run
            and facts["epoch"] < epoch
        ):
            self._save(LATEST, {"metric": self._resumed_metric, "epoch": epoch})

    def _stop_waiting(self):
        """The next batch does not come: a run that is to stop, and stands between two updates, stops now."""
        alone = paddle.distributed.get_world_size() == 1
        if self.stop.signal and alone and self.position.step % self.update_freq == 0:
            self.stopping = self.stop.signal
            self._save(LATEST, {"metric": 0.0, "epoch": self.position.epoch - 1})
            self._interrupt()

    def _interrupt(self):
        """End the training: all processes have come here, and the first has saved."""
        if paddle.distributed.get_world_size() > 1:
            paddle.distributed.barrier()
        prefix, number = self.checkpoints.prefix(LATEST), self.stopping
        progress = describe_progress({"epoch": self.position.epoch - 1, "step": self.position.step})
        name = signal.Signals(number).name
        if not self._updated and self._resumed is None:
            raise Interrupted(f"stopped by {name} before the first step; there is nothing to save", number)
        raise Interrupted(
            f"stopped by {name} after {progress}; saved in {prefix}; go on with -o Global.checkpoints={prefix}",
            number,
        )

    def _save(self, name, info, pending=None):
        """Write a checkpoint; ``pending`` are the averages of an epoch that is yet to be evaluated."""
        if paddle.distributed.get_rank() != 0:
            return
        if not self._updated and self._resumed is None:  # the optimizer has no state yet
            logger.info("nothing to save: no step has been taken yet")
            return
        if self.average is not None:  # as in PaddleClas: the average is the model
            values = {".pdema": self.network.state_dict(), ".pdparams": self.average.state_dict()}
        else:
            values = {".pdparams": self.network.state_dict()}
        # Before the first step after a resumption Paddle's optimizer does not give back what it was given.
        values[".pdopt"] = self.optimizer.state_dict()
        if self._resumed is not None:  # its schedule goes on also where updates are skipped
            schedule = {k: v for k, v in values[".pdopt"].items() if k == "LR_Scheduler"}
            values[".pdopt"] = {**self._resumed, **schedule}
        scaler = getattr(self.model, "_scaler", None)
        facts = {
            "step": self.position.step,
            "pending": pending,
            "meters": {"count": self.meters.count, "sums": self.meters.sums},
            "seed": self.random.seed,
            "skipped_batches": self.guard.skipped,
            "scaler": None if scaler is None else _plain(scaler.state_dict()),
            "epochs": self.settings["epochs"],
            "steps_per_epoch": self.steps,
            "update_freq": self.update_freq,
            "processes": paddle.distributed.get_world_size(),
            "sections": section_hashes(self.config),
        }
        self.checkpoints.save(name, values, info, facts)

    def _share_seed(self):
        """A seed that was drawn must be the same in all processes."""
        if self.seed is None and paddle.distributed.get_world_size() > 1:
            seed = paddle.to_tensor([self.random.seed], dtype="int64")
            paddle.distributed.broadcast(seed, 0)
            self.random.seed = int(seed)

    def _resume(self):
        """Restore ``Global.checkpoints``; returns the averages of an epoch that is yet to be evaluated, or None."""
        self.best = {"metric": -1.0, "epoch": 0}
        prefix = self.settings.get("checkpoints")
        if prefix == "auto":
            prefix = self.checkpoints.newest(self.config["Arch"].get("name"))
            if prefix is None:
                logger.info(f"Global.checkpoints: auto: {self.output_dir} holds no checkpoint; starting anew")
        if prefix is None:
            self._warn_of_replacement()
            return None
        if prefix.lower() == "auto":
            raise ConfigError(f"Global.checkpoints: {prefix!r}; did you mean 'auto'?")
        checkpoint = read_checkpoint(prefix, self.average is not None)
        weights, path = checkpoint.weights, checkpoint.prefix + ".pdparams"
        if self.average is not None:
            set_weights(self.average, weights, path)
            weights, path = checkpoint.average, checkpoint.prefix + ".pdema"
        set_weights(self.network, weights, path)
        parameters = [p for p in self.network.parameters() if p.trainable]
        path = checkpoint.prefix + ".pdopt"
        same_kind = load_optimizer(self.optimizer, parameters, checkpoint.optimizer, path)
        self._resumed, self._resumed_metric = checkpoint.optimizer, checkpoint.metric
        self.position.epoch, self.position.step = checkpoint.epoch + 1, 0
        facts = checkpoint.facts
        logger.info(
            f"Finish load checkpoints from {checkpoint.prefix}, "
            f"{describe_progress({'epoch': checkpoint.epoch, 'step': facts.get('step')})}"
        )
        pending = self._restore_facts(facts) if facts else None
        if not same_kind:
            self._place_schedule()
        self.best = self.checkpoints.best() or self.best
        return pending

    def _warn_of_replacement(self):
        """A new run in the folder of another replaces its checkpoints."""
        facts = self.checkpoints.facts(LATEST)
        if facts is not None and self.settings.get("checkpoints") is None:
            logger.warning(
                f"{self.output_dir} holds the checkpoints of another run ({describe_progress(facts)}), which this one "
                "replaces; -o Global.checkpoints=auto goes on with them, -o Global.output_dir keeps them"
            )

    def _restore_facts(self, facts):
        """What makes the rest of the run the one that was interrupted; returns what :meth:`_resume` does."""
        hashes = section_hashes(self.config)
        watched = ("Arch", "DataLoader", "Optimizer", "Loss", "EMA", "AMP")
        changed = [k for k in watched if facts["sections"].get(k) != hashes.get(k)]
        if changed:
            logger.warning(f"other than when the checkpoint was written: {', '.join(changed)}")
        if self.seed is not None and self.seed != facts["seed"]:
            logger.info(f"Global.seed: the checkpoint's {facts['seed']} is used, not {self.seed}")
        self.random.seed, self.guard.skipped = facts["seed"], facts["skipped_batches"]
        if self.checkpoints.is_last_of_its_run(facts):  # else another run branches off here
            self.checkpoints.run = facts["run"]
        if facts["scaler"]:
            self.model._scaler = paddle.amp.GradScaler(**self.model._adapter._amp_configs)
            self.model._scaler.load_state_dict(_arrays(facts["scaler"]))
        now = (self.steps, paddle.distributed.get_world_size(), self.update_freq)
        same = (facts["steps_per_epoch"], facts["processes"], facts.get("update_freq", now[2])) == now
        if facts["step"] and not same:
            logger.warning("the batches of an epoch are others now: the interrupted epoch begins again")
        elif facts["step"]:
            self.position.step = facts["step"]
            self.meters.count, self.meters.sums = facts["meters"]["count"], facts["meters"]["sums"]
        epochs = self.settings["epochs"]
        if not same or facts.get("epochs", epochs) != epochs or "Optimizer" in changed:
            self._place_schedule()
        return facts["pending"]

    def _place_schedule(self):
        """Put a schedule of another course where this run is in it; what was restored is of the old course."""
        done = self.position.epoch - 1
        if not self.schedule.by_epoch:
            done = (done * self.steps + self.position.step) // self.update_freq
        before = self.schedule.last_lr
        self.schedule.step(done)
        if not math.isclose(before, self.schedule.last_lr, rel_tol=1e-6):
            logger.warning(
                "the learning rate follows another schedule than when the checkpoint was written: it goes on with "
                f"{self.schedule.last_lr:.8f}, not {before:.8f}"
            )

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
        self.eval_loader.epoch = max(epoch, 1)
        every = self.settings.get("print_batch_step") or 10
        follow = _EvalLog(self, epoch, every, len(self.eval_loader))
        try:
            with paddle.no_grad(), self._eval_precision():
                self.model.evaluate(self.eval_loader, verbose=0, callbacks=[follow])
        finally:
            if self.mode == "eval":
                self.eval_loader.close()
        if follow.averages is None:
            self._list_skipped(self.eval_loader)
            raise DataError(
                f"evaluation: none of {len(self.eval_loader.dataset)} images can be read, such as "
                f"{next(iter(self.eval_loader.skipped))}"
            )
        self.results = follow.averages
        self._list_skipped(self.eval_loader)
        for name, value in self.results.items():
            if not math.isfinite(value):
                raise DataError(
                    f"evaluation: {name} is {value}; the weights or the images hold numbers that are not finite"
                )
        logger.info(f"[Eval][Epoch {epoch}][Avg]{format_values(self.results)}")
        return self.results[f"top{self.meters.topk['eval'][0]}"]

    def _list_skipped(self, loader):
        """Log how many images were left out, and add them to a list in the output folder."""
        new = [message for message in loader.skipped if message not in self.listed]
        if loader.skipped:
            path = os.path.join(self.output_dir, "bad_images.txt")
            os.makedirs(self.output_dir, exist_ok=True)
            with open(path, "a", encoding="utf-8") as file:
                file.writelines(f"{message}\n" for message in new)
            logger.warning(f"{sum(loader.skipped.values())} images left out so far, listed in {path}")
            self.listed.update(new)

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
        skip = logger.warning if self.settings.get("on_bad_image") == "skip" else None
        for names, images in read_batches(paths, self.transform, section.get("batch_size") or 1, skip):
            with self._eval_precision():
                (logits,) = self.model.predict_batch([images])
            with np.errstate(invalid="ignore"):  # the post-processing names the image
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
        self.averages = None

    def on_eval_batch_begin(self, step, logs=None):
        self.reader += time.perf_counter() - self.ready

    def on_eval_batch_end(self, step, logs=None):
        engine, meters = self.engine, self.engine.meters
        if engine.mode == "train":
            (engine.stopping,) = engine._agree(engine.stop.signal)
            if engine.stopping:
                raise _StopEvaluation
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


class _StopEvaluation(Exception):
    """Ends an evaluation because the run is to stop."""


def _plain(state):
    """The numbers of a dict of arrays, for JSON."""
    return {k: np.asarray(v).tolist() for k, v in state.items()}


def _arrays(state):
    """What :func:`_plain` was made of."""
    return {k: np.array(v, "float32") if isinstance(v, list) else v for k, v in state.items()}
