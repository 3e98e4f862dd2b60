"""The ablations in the paper's regime: crowds whose classes are easy to tell and whose masks are hard.

Commands:         s4m data crowds data/crowds
                  s4m ablation configs/crowds/crowds.py --table rivals
Time and memory:  docs/ablations.md; memory not measured
Expected AP:      teacher 17, control 20.5, student 30.6 (docs/ablations.md)
"""

_base_ = ["../demo/ablation.py"]

data = dict(root="data/crowds", labeled="train.json", unlabeled="unlabeled")  # val and test as the demo's
sd = dict(enabled=False)
teacher = dict(batch_size=16, augmented_fraction=0.5, validate_every=400)
student = dict(iterations=1200, burn_in=200, refresh_every=400, validate_every=400)
refine = dict(ground_truth="unlabeled.json")

# As the demo's without PhotoMetricDistortion, which exchanges color channels: here the color tells the class.
train_pipeline = [
    dict(type="LoadRGB"),
    dict(type="LoadInstances"),
    dict(type="RandomFlip", prob=0.5),
    dict(
        type="RandomResize", scale=(128, 128), ratio_range=(0.75, 1.5), resize_type="Resize", keep_ratio=True
    ),
    dict(
        type="RandomCrop",
        crop_type="absolute",
        crop_size=(128, 128),
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-5, 1e-5), by_mask=True, keep_empty=False),
    dict(type="PackDetInputs"),
]
