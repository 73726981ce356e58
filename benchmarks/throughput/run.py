"""Images per second of distillation, against torchdistill and against an online teacher, on one thread.

ResNet-56 to MLPerf Tiny's ResNet-8 on CIFAR-10-JPEG, batch 128, flip and crop, hard_weight 0.1, T = 4. All arms run in
this one process, in turns, on the same samples. An epoch costs the same whatever its number, so each arm is timed on short
epochs, and the all-in rate of 30 epochs with 8 views follows from the measured rates:

    30 / (30 / student rate + 8 / teacher rate)

torchdistill (its own DistillationBox, KDLoss and training steps) gets the same networks, and the images as PIL pictures
through torchvision's transforms, as its own configurations do. Its CPU path is float32 (with the accelerate installed here it
fails on `state.use_fp16`, which is gone); the bfloat16 arm is a courtesy: the same loop under torch.autocast.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/throughput/run.py benchmarks/throughput/result.json
"""

import json
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cifar10"))

from edgedistill.config.load import load_config
from edgedistill.data.dataset import Split, load_dataset
from edgedistill.data.settings import data_settings
from edgedistill.data.views import training_views
from edgedistill.distill.cache import Cache
from edgedistill.distill.feed import TrainingFeed
from edgedistill.distill.loading import answers_of, build_student, load_teacher
from edgedistill.distill.losses import all_outputs_loss
from edgedistill.distill.predictors import torch_predictor
from edgedistill.distill.settings import declare_plan
from edgedistill.distill.soft_labels import OnlineTeacher, SoftLabels, build_soft_labels
from edgedistill.distill.teacher_engine import EngineChoice, openvino_predictor
from edgedistill.distill.training import Resume, Training, fit
from edgedistill.records.stages import DataRecord
from edgedistill.runtime.files import sha256_of
from edgedistill.runtime.progress import Reporter
from edgedistill.stages.stage import Records, Sources

EPOCHS, VIEWS, BATCHES, ROUNDS, BATCH = 30, 8, 40, 5, 128
QUIET = Reporter(quiet=True)


def ours(settings, split, scratch, teacher):
    """Return the arms of edgedistill: soft labels, a student epoch from them, and one with the teacher online."""
    views = training_views(split, settings.data, settings.views)
    sample = views.batch(np.arange(256), np.zeros(256, np.int64))
    asked = (settings.teachers[0].engine, settings.teachers[0].precision)
    engine = EngineChoice(settings.task, settings.interface, Reporter()).choose(asked, teacher, sample, len(split))
    predict = openvino_predictor(teacher, sample, "auto") if engine == "openvino" else torch_predictor(teacher, "auto")
    online = OnlineTeacher(answers_of(torch_predictor(teacher, "auto"), None))
    count = 0

    def soft_labels():
        nonlocal count
        count += 1
        cache = Cache(scratch / str(count), str(count), (1, len(split), 10))
        cache.folder.mkdir()
        (cache.folder / "engine").write_text(engine)
        build_soft_labels(cache, answers_of(predict, None), views, QUIET)

    def epoch(answers, view_count):
        def run():
            feed = TrainingFeed(views, BATCH, answers, view_count, 0)
            plan = settings.plan.model_copy(update={"epochs": 1})
            loss = all_outputs_loss(plan, settings.task.distillation_loss(plan, None), None)
            resume = Resume(scratch / "resume.pt", str(time.time_ns()))
            fit(student_of(settings), Training("t", plan, feed, loss, lambda _: 0.0, resume, 0), QUIET)

        return run

    soft_labels()
    labels = SoftLabels(np.load(scratch / "1" / "logits.npy", mmap_mode="r"))
    return engine, {"soft labels": soft_labels, "student": epoch(labels, 1), "online": epoch(online, 0)}


def data_only(settings, split):
    views = training_views(split, settings.data, settings.views)

    def run():
        for _ in TrainingFeed(views, BATCH, None, 0, 0).epoch(0):
            pass

    return run


class Pictures(torch.utils.data.Dataset):
    """CIFAR-10-JPEG as torchvision gives CIFAR-10: PIL pictures, transformed one by one."""

    def __init__(self, split, transform):
        from PIL import Image

        self.items = [
            (Image.fromarray(split.inputs["input"][row]), int(label))
            for row, label in zip(split.rows, split.labels, strict=True)
        ]
        self.transform = transform

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        picture, label = self.items[index]
        return self.transform(picture), label


def theirs(config, split, teacher, student, bf16):
    """Return an epoch of torchdistill, as the loop of its image_classification example has it."""
    from torchdistill.core.distillation import get_distillation_box
    from torchvision import transforms

    transform = transforms.Compose([
        transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
        transforms.Normalize(config.data.mean, config.data.std),
    ])  # fmt: skip
    loss = {"student_module_path": ".", "student_module_io": "output", "teacher_module_path": ".",
            "teacher_module_io": "output", "temperature": 4.0, "alpha": 0.1, "reduction": "batchmean"}  # fmt: skip
    settings = {
        "num_epochs": 1,
        "train_data_loader": {"dataset_id": "train", "sampler": {"class_or_func": torch.utils.data.RandomSampler},
                              "kwargs": {"batch_size": BATCH, "num_workers": 0, "drop_last": True}},
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False, "sequential": [], "wrapper": None},
        "student": {"forward_proc": "forward_batch_only", "requires_grad": True, "sequential": [], "wrapper": None},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}},
        "criterion": {"key": "WeightedSumLoss",
                      "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}}}},
    }  # fmt: skip
    box = get_distillation_box(
        teacher,
        student,
        {"train": Pictures(split, transform)},
        settings,
        torch.device("cpu"),
        None,
        False,  # noqa: FBT003
        1,
    )

    def run():
        box.pre_epoch_process(epoch=0)
        for sample_batch, targets, supp_dict in box.train_data_loader:
            box.pre_forward_process()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                value = box.forward_process(sample_batch, targets=targets, supp_dict=supp_dict)
            box.post_forward_process(loss=value)

    return run


def settings_of(config):
    """Return the data and how the student is distilled, as the distillation stage declares it."""
    sources = Sources(config, {}, Records({}), sha256_of)
    record = load_dataset(data_settings(sources)).record
    return declare_plan(Sources(config, {}, Records({DataRecord.stage: record}), sha256_of))


def teacher_of(settings) -> nn.Module:
    source = settings.teachers[0].source
    return load_teacher(source, settings.interface, settings.seed, source.weights.path)


def student_of(settings) -> nn.Module:
    return build_student(settings.student, settings.interface, settings.seed)


def main(out):
    torch.set_num_threads(1)
    here = Path(__file__).resolve().parent
    config = load_config(here.parent / "cifar10" / "edgedistill.toml")
    settings = settings_of(config)
    train = settings.dataset().train
    split: Split = train.take(np.sort(np.random.default_rng(0).choice(len(train), BATCHES * BATCH, replace=False)))
    with tempfile.TemporaryDirectory() as folder:
        engine, arms = ours(settings, split, Path(folder), teacher_of(settings))
        arms["data"] = data_only(settings, split)
        for name, bf16 in (("torchdistill fp32", False), ("torchdistill bf16", True)):
            arms[name] = theirs(config, split, teacher_of(settings), student_of(settings), bf16)
        for run in arms.values():
            run()
        seconds = {name: [] for name in arms}
        for round_number in range(ROUNDS):
            for name in np.random.default_rng(round_number).permutation(list(arms)):
                start = time.perf_counter()
                arms[name]()
                seconds[name].append(time.perf_counter() - start)
                print(f"round {round_number + 1} {name}: {len(split) / seconds[name][-1]:.0f} images/s", flush=True)
    rates = {name: len(split) / statistics.median(taken) for name, taken in seconds.items()}
    all_in = EPOCHS / (EPOCHS / rates["student"] + VIEWS / rates["soft labels"])
    result = {
        "images_per_s": rates, "all_in_images_per_s": all_in, "teacher_engine": engine,
        "ratio": {name: all_in / rates[name] for name in ("torchdistill fp32", "torchdistill bf16", "online")},
        "epochs": EPOCHS, "views": VIEWS, "seconds": seconds, "images": len(split),
        "versions": {name: version(name) for name in ("torch", "torchdistill", "torchvision", "openvino")},
        "cpu": platform.processor() or platform.machine(), "threads": 1,
    }  # fmt: skip
    Path(out).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result[key] for key in ("images_per_s", "all_in_images_per_s", "ratio")}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1])
