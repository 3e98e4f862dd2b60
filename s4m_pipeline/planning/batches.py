"""How the student's batches are divided among devices."""

import math

from s4m_pipeline.config.student import StudentOptions
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.train.launch import batch_per_rank


def student_batch_sizes(student: StudentOptions, devices: int) -> tuple[int, int]:
    """Labeled and unlabeled images per iteration on each of so many devices.

    Raises:
        UserError: if they cannot be divided, or leave ARP, which pairs images of one device, without a pair.
    """
    parts = student.accumulate
    labeled = batch_per_rank("student.batch_size", student.batch_size, devices, parts)
    unlabeled = batch_per_rank("student.unlabeled_batch_size", student.unlabeled_batch_size, devices, parts)
    if student.arp.fraction > 0 and student.arp.num_pairs(unlabeled // parts) == 0:
        in_parts = f" in {parts} parts each" if parts > 1 else ""
        raise UserError(
            f"student.unlabeled_batch_size: {student.unlabeled_batch_size} images on {devices} device(s)"
            f"{in_parts} "
            f"with student.arp.fraction={student.arp.fraction} leave ARP nothing to paste: it exchanges "
            "objects within pairs of unlabeled images that are computed together.\n"
            f"Expected at least {math.ceil(2 / student.arp.fraction)} images on each device, in each part. "
            "Change the batch size, the number of devices or student.accumulate; student.arp.fraction=0 "
            "trains without ARP."
        )
    return labeled, unlabeled
