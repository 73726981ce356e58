"""The lineage of a model: the hashes of its data and of its ancestor models."""

from __future__ import annotations

from edgedistill.records.stages import DataRecord, OnnxModel, QuantizedRecord, StudentRecord, TeacherRecord


def lineage_of(
    model: OnnxModel, data: DataRecord, teacher: TeacherRecord, student: StudentRecord, quantized: QuantizedRecord
) -> dict[str, str]:
    """Return the hashes of a model's ancestors: data, teacher, teacher2 and so on, student, quantized."""
    lineage = {"data": data.fingerprint}
    if model.name == "teacher":
        return lineage | {"teacher": teacher.file.sha256}
    lineage |= teacher.lineage | {"student": student.student.file.sha256}
    if quantized.file is None or model.precision != "int8":
        return lineage
    return lineage | {"quantized": quantized.file.sha256}
