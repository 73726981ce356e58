"""The kinds of input that edgedistill reads: sound files of each, and the function that reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import inputs_of_data as data
import inputs_of_models as models
import inputs_of_phones as phones
import inputs_of_results as results
from small_files import Files


class Kind(NamedTuple):
    """A kind of input: sound examples, and a function that reads the files in a folder as a command does."""

    examples: Callable[[], list[Files]]
    read: Callable[[Path], object]


KINDS = {
    "configuration": Kind(models.configurations, models.read_configuration),
    "npz": Kind(data.numpy_files, data.read_data("data.npz")),
    "pictures": Kind(data.picture_folders, data.read_data("data")),
    "wav": Kind(data.wave_folders, data.read_data("data")),
    "tar shards": Kind(data.tar_shards, data.read_data("data-000.tar")),
    "parquet": Kind(data.parquet_shards, data.read_data("data.parquet")),
    "coco": Kind(data.coco_files, data.read_data("boxes.json", task="detection", images=".")),
    "yolo": Kind(data.yolo_folders, data.read_data("data.yaml", task="detection")),
    "voc": Kind(data.voc_folders, data.read_data(".", task="detection")),
    "masks": Kind(data.mask_folders, data.read_data("data", task="segmentation")),
    "weights": Kind(models.state_dicts, models.read_weights),
    "onnx": Kind(models.onnx_files, models.read_onnx),
    "samples for a file": Kind(models.sample_files, models.read_requests),
    "tokenizer": Kind(models.tokenizers, models.read_tokenizer),
    "texts": Kind(models.text_tables, models.read_table),
    "measurement": Kind(results.measurements, results.compare_measurements),
    "run folder": Kind(results.run_folders, results.read_run),
    "kit": Kind(results.kits, results.read_a_kit),
    "card": Kind(results.cards, results.read_a_card),
    "upload": Kind(results.uploads, results.read_an_upload),
    "answer of a device": Kind(results.device_outputs, results.read_answer),
    "measurement of a device": Kind(results.returned_measurements, results.read_returned),
    "messages of an agent": Kind(results.agent_messages, results.read_messages),
    "energy log": Kind(results.energy_logs, results.read_log),
    "phone": Kind(phones.phones, phones.read_phone),
}
