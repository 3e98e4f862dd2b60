"""`s4m doctor`: one thing is broken at a time, and the line and the command that fixes it are looked at.

Packages are broken in a folder of stubs on PYTHONPATH, which hides the installed ones and imports in no time.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from s4m_pipeline.apps.doctor import diagnosis, machine, packages
from s4m_pipeline.apps.doctor import experiment as experiment_checks
from s4m_pipeline.apps.doctor.finding import Finding, run_check
from s4m_pipeline.apps.doctor.probe import Import, probe

REPOSITORY = Path(__file__).parents[1]
HEALTHY = {
    "torch": """
__version__ = '2.11.0'
class version: cuda = None
class cuda: is_available = lambda: False
""",
    "torchvision": "__version__ = '0.26.0'",
    **dict.fromkeys(("mmengine", "mmcv", "mmdet", "sam2", "zarr", "cv2", "numpy"), ""),
    "pycocotools": "",
    "pycocotools/mask": "",
}


class Site:
    """Stub packages, all sound; a test breaks one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for module, source in HEALTHY.items():
            self.module(module, source)

    def module(self, name: str, source: str) -> None:
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / name / "__init__.py").write_text(source)

    def distribution(self, name: str, version: str) -> None:
        """The record of an installed distribution."""
        record = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    def doctor(self, *args: str) -> tuple[int, dict[str, dict[str, Any]]]:
        """Exit code and findings by name of `s4m doctor --json` with these packages."""
        done = subprocess.run(
            [sys.executable, "-m", "s4m_stages", "doctor", "--json", "--work-dir", str(self.folder), *args],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(self.folder)},
        )
        assert done.stderr == ""
        return done.returncode, {finding["name"]: finding for finding in json.loads(done.stdout)}


@pytest.fixture
def site(tmp_path) -> Site:
    return Site(tmp_path)


def the_only_fix(result: tuple[int, dict[str, dict[str, Any]]], name: str) -> dict[str, Any]:
    code, findings = result
    assert (code, [f["name"] for f in findings.values() if f["status"] == "fix"]) == (1, [name])
    return findings[name]


def test_doctor__with_sound_packages__exits_0_and_every_line_is_ok(site):
    code, findings = site.doctor()
    assert {name: f["status"] for name, f in findings.items()} == dict.fromkeys(findings, "ok")
    assert code == 0
    assert {"Python", "torch", "torchvision", "GPU", "SAM 2", "work folder", "disk"} <= findings.keys()


def test_doctor__with_a_torchvision_that_raises__names_the_pair_to_install(site):
    site.module("torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    fix = the_only_fix(site.doctor(), "torchvision")
    assert "operator torchvision::nms does not exist" in fix["text"]
    assert (
        "pip install --force-reinstall --no-deps 'torch<2.16,>=2.11' 'torchvision<0.30,>=0.26'"
        in fix["command"]
    )


def test_doctor__with_torchvision_of_another_torch__says_so(site):
    site.module("torchvision", "__version__ = '0.25.0'")
    assert "0.25.0 is not built for torch 2.11.0" in the_only_fix(site.doctor(), "torchvision")["text"]


def test_doctor__with_torchvision_0_29__takes_torch_2_14_and_later(site):
    for torch, fits in (("2.13.0", False), ("2.14.1", True), ("2.15.0", True)):
        site.module("torch", HEALTHY["torch"].replace("2.11.0", torch))
        site.module("torchvision", "__version__ = '0.29.2'")
        _, findings = site.doctor()
        assert (findings["torchvision"]["status"] == "ok") == fits


def test_doctor__with_a_torch_that_cannot_be_imported__still_reports_the_rest(site):
    site.module("torch", "raise ImportError('libcudart.so.13: cannot open shared object file')")
    code, findings = site.doctor("configs/demo/demo.py")
    assert code == 1
    assert "libcudart.so.13" in findings["torch"]["text"]
    assert findings["GPU"]["status"] == findings["config"]["status"] == "warn"
    assert findings["config"]["text"] == "not checked: fix torch first"
    assert findings["zarr"]["status"] == findings["work folder"]["status"] == "ok"


def test_doctor__with_a_package_that_kills_python__names_it_and_checks_what_comes_after(site):
    site.module("mmcv", "import os\nprint('noise', flush=True)\nos.kill(os.getpid(), 11)")
    code, findings = site.doctor()
    assert code == 1
    assert "ends Python with SIGSEGV" in findings["MMCV"]["text"]
    assert "'onedl-mmcv>=2.2'" in findings["MMCV"]["command"]
    assert findings["MMDetection"]["status"] == findings["SAM 2"]["status"] == "ok"


def test_doctor__with_operators_of_another_torch__offers_to_compile_them(site):
    site.module("mmcv/_ext", "raise ImportError('undefined symbol: _ZN3c10')")
    fix = the_only_fix(site.doctor(), "mmcv operators")
    assert "undefined symbol" in fix["text"] and "MMCV_WITH_OPS=1" in fix["command"]


@pytest.mark.parametrize(
    ("other", "ours"),
    [("SAM-2", "rf-sam-2"), ("sam2", "rf-sam-2"), ("mmdet", "onedl-mmdetection"), ("mmcv", "onedl-mmcv")],
)
def test_doctor__with_two_packagings_of_one_module__removes_both_and_installs_ours(site, other, ours):
    site.distribution(other, "1.1.0")
    fix = the_only_fix(site.doctor(), "clash")
    assert f"{other.lower()} and {ours} install the same files" in fix["text"]
    removal, _, installation = fix["command"].partition(" && ")
    assert removal.endswith(f"pip uninstall -y {other.lower()} {ours}")
    assert f"'{ours}" in installation


def test_doctor__with_an_old_zarr__names_the_version_needed(site):
    site.distribution("zarr", "2.18.3")
    fix = the_only_fix(site.doctor(), "zarr")
    assert fix["text"] == "zarr 2.18.3; zarr>=3 is needed"
    assert fix["command"].endswith("pip install --force-reinstall --no-deps 'zarr>=3'")


def test_doctor__without_a_package__says_not_installed():
    assert probe([["no_such_package"]])["no_such_package"].missing
    imports = {
        **{m: Import(m, "9") for m in HEALTHY},
        "pycocotools.mask": Import("", error="x", missing=True),
    }
    imports["mmcv._ext"] = Import("mmcv._ext", error="x", missing=True)
    (absent,) = [f for f in packages.check_imports(imports) if f.name == "pycocotools"]
    assert (absent.status, absent.text) == ("fix", "not installed")


def test_doctor__in_lines__shows_the_command_under_the_fault(site):
    site.distribution("sam2", "1.1.0")
    done = subprocess.run(
        [sys.executable, "-m", "s4m_stages", "doctor", "--work-dir", str(site.folder)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(site.folder)},
    )
    lines = done.stdout.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("fix "))
    assert "clash" in lines[place]
    assert lines[place + 1].strip().startswith(sys.executable)
    assert lines[-1] == "1 to fix, 0 warnings"


GPU = {"name": "A", "total_bytes": 24e9, "free_bytes": 23e9}
FACTS = {"cuda": False, "cuda_build": "13.0", "driver": 13000, "gpus": []}


@pytest.mark.parametrize(
    ("facts", "device", "status", "text"),
    [
        ({}, False, "ok", "none"),
        ({"driver": 12040}, True, "fix", "supports CUDA up to 12.4, torch is built for 13.0"),
        ({"cuda_build": None}, True, "fix", "built without CUDA"),
        ({}, True, "fix", "CUDA_VISIBLE_DEVICES"),
        ({"cuda": True, "gpus": [GPU]}, True, "ok", "A, 24 GB, 23 GB free; CUDA 13.0"),
        ({"cuda": True, "gpus": [GPU | {"free_bytes": 2e9}]}, True, "warn", "in use by others"),
    ],
    ids=["none", "old-driver", "cpu-build", "hidden", "sound", "busy"],
)
def test_check_cuda__of_what_torch_says(facts, device, status, text):
    (found,) = packages.check_cuda(Import("torch", "2.11.0", facts=FACTS | facts), device)
    assert (found.status, text in found.text) == (status, True)
    assert (found.command is None) == (status == "ok")


def test_run_check__that_fails_itself__is_a_warning():
    def broken():
        yield Finding("a", "ok", "")
        raise RuntimeError("no such register\nmore")

    assert run_check("a", broken) == [
        Finding("a", "warn", "could not be checked (RuntimeError: no such register)")
    ]


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "status"), [(1e9, "fix"), (6e9, "warn"), (50e9, "ok")])
def test_check_disk__with_little_room__says_how_much_is_needed(monkeypatch, tmp_path, free, status):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100e9, 0, free))
    (found,) = machine.check_disk(tmp_path / "not" / "there", 5 * 10**9)
    assert found.status == status
    assert f"{free / 1e9:.1f} GB free" in found.text
    assert "5.0 GB" in found.text
    assert ("--work-dir" in (found.command or "")) == (status == "fix")


def test_check_shared_memory__of_a_container__names_the_flag(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64e6, 0, 64e6))
    (unknown,) = machine.check_shared_memory(None)
    (known,) = machine.check_shared_memory(3 * 10**9)
    (no_loaders,) = machine.check_shared_memory(0)
    assert (unknown.status, known.status, no_loaders.status) == ("warn", "fix", "ok")
    assert "--shm-size=6g" in known.command


def test_check_open_files__below_the_least__raises_the_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        (found,) = machine.check_open_files()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (found.status, found.command) == ("fix", "ulimit -n 1024")


def test_check_file_system__that_is_sound__leaves_nothing(tmp_path):
    (found,) = machine.check_file_system(tmp_path / "work_dirs" / "mine")
    assert found.status == "ok"
    assert list(tmp_path.iterdir()) == []


def test_check_file_system__that_cannot_be_written__is_named(tmp_path):
    folder = Path("/proc/self") if os.geteuid() == 0 else tmp_path  # nobody writes there, not even root
    folder == tmp_path and folder.chmod(0o500)
    (found,) = machine.check_file_system(folder)
    folder == tmp_path and folder.chmod(0o700)
    assert found.status == "fix"
    assert "cannot be written to" in found.text
    assert "--work-dir" in found.command


def test_check_file_system__whose_locks_exclude_nobody__is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("fcntl.flock", lambda descriptor, kind: None)
    (found,) = machine.check_file_system(tmp_path)
    assert (found.status, "same lock" in found.text) == ("fix", True)


def test_check_file_system__without_locks__gives_the_caches_message(monkeypatch, tmp_path):
    def no_locks(descriptor, kind):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    (found,) = machine.check_file_system(tmp_path)
    assert (found.status, "needs a file system that supports flock" in found.text) == ("fix", True)


def read(config: Path, *overrides: str) -> experiment_checks.CheckedConfig:
    findings, experiment = experiment_checks.check_config(config, overrides)
    assert experiment is not None, findings
    return experiment


def test_check_config__with_a_typo__gives_the_nearest_name(tiny_config):
    (found,), experiment = experiment_checks.check_config(tiny_config, ["teacher.iteration=3"])
    assert experiment is None
    assert (found.status, "did you mean teacher.iterations?" in found.text) == ("fix", True)


def test_check_data__of_a_sound_experiment__counts_the_images(tiny_config):
    found = {f.name: f for f in experiment_checks.check_data(read(tiny_config))}
    assert {name: f.status for name, f in found.items()} == {
        "data.labeled": "ok",
        "data.val": "ok",
        "data.test": "ok",
        "data.unlabeled": "warn",
    }
    assert found["data.labeled"].text.endswith("train.json: 6 images")


@pytest.mark.parametrize(
    ("override", "name", "text", "command"),
    [
        ("data.root=/nowhere", "data", "no folder /nowhere", "--set data.root="),
        ("data.labeled=gone.json", "data.labeled", "no file", "s4m data split"),
        ("data.val=train/1.png", "data.val", "no COCO JSON", "s4m data check"),
        ("data.val_images=test", "data.val", "images that are not in", "s4m data check"),
        ("data.train_images=gone", "data.labeled", "no image folder", "ls "),
    ],
)
def test_check_data__with_something_absent__is_named_with_a_command(
    tiny_config, override, name, text, command
):
    fixes = [f for f in experiment_checks.check_data(read(tiny_config, override)) if f.status == "fix"]
    assert [f.name for f in fixes] == [name]
    assert text in fixes[0].text
    assert command in fixes[0].command


def first_start(experiment: experiment_checks.CheckedConfig) -> Finding:
    return next(iter(experiment_checks.check_init_from(experiment)))


def test_check_init_from__of_the_experiments_own_teacher__is_no_file(tiny_config):
    own = read(tiny_config, "teacher.init_from=none", "student.init_from=teacher")
    assert list(experiment_checks.check_init_from(own)) == []
    lost = read(tiny_config, "teacher.init_from=none", "student.init_from=teachers")
    assert [finding.status for finding in experiment_checks.check_init_from(lost)] == ["fix"]


def test_check_init_from__published_network__is_here_or_will_be_fetched(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = "mmdet://mask2former_r50_8xb2-lsj-50e_coco"
    absent = first_start(read(tiny_config, f"teacher.init_from={name}"))
    assert (absent.status, absent.command.split()[0]) == ("warn", "curl")
    file = Path(absent.command.split()[3])
    file.parent.mkdir(parents=True)
    file.touch()
    assert first_start(read(tiny_config, f"teacher.init_from={name}")).status == "ok"
    unknown = first_start(read(tiny_config, "teacher.init_from=mmdet://mask2former"))
    assert unknown.status == "fix"
    assert "The nearest are: mmdet://mask2former_" in unknown.text


def test_check_weights__absent_or_to_be_downloaded__are_told_apart(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    large = read(
        tiny_config,
        "sam.model=facebook/sam2.1-hiera-large",
        f"sam.weights_dir={tmp_path}",
        "teacher.init_from=torchvision://resnet50",
    )
    (nano,) = experiment_checks.check_sam(read(tiny_config))
    (local,) = experiment_checks.check_sam(read(tiny_config, "sam.model=/nowhere/sam.pt"))
    (hub,) = experiment_checks.check_sam(large)
    file = first_start(read(tiny_config, "teacher.init_from=/nowhere/w.safetensors"))
    assert [f.status for f in (nano, local, hub, first_start(large), file)] == [
        "ok",
        "fix",
        "warn",
        "warn",
        "fix",
    ]
    name = "sam2.1_hiera_large.pt"
    assert hub.command == f"hf download facebook/sam2.1-hiera-large {name} --local-dir {tmp_path}"
    (tmp_path / name).touch()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "resnet50-1.pth").touch()
    (hub,) = experiment_checks.check_sam(large)
    assert (hub.status, first_start(large).status) == ("ok", "ok")


def test_check_loggers__of_either_training__are_missed(tiny_config, monkeypatch):
    monkeypatch.setattr(experiment_checks, "find_spec", lambda name: None if name == "mlflow" else name)
    assert list(experiment_checks.check_loggers(read(tiny_config))) == []
    for asking in ("teacher.logger", "student.logger"):
        (found,) = experiment_checks.check_loggers(read(tiny_config, f"{asking}=['tensorboard', 'mlflow']"))
        assert (found.status, found.text) == ("fix", f"{asking}: mlflow is not installed")


def test_diagnose__estimate_that_fails__is_a_warning_among_the_other_findings(
    tiny_config, tmp_path, monkeypatch
):
    modules = (*HEALTHY, "pycocotools.mask", "mmcv._ext")
    monkeypatch.setattr(diagnosis, "probe", lambda: {m: Import(m, "9") for m in modules})
    config = tmp_path / "odd.py"
    config.write_text(
        f"_base_ = [{str(tiny_config)!r}]\ntrain_pipeline = [dict(type='RandomCrop', crop_size=128)]\n"
    )
    findings = {f.name: f for f in diagnosis.diagnose(tmp_path, config)}
    assert "could not be checked (TypeError" in findings["shared memory"].text
    assert "for checkpoints and labels" in findings["disk"].text


def test_needs__of_disk_and_shared_memory__grow_with_what_is_asked_for(tiny_config):
    plain = read(tiny_config)
    assert experiment_checks.shared_bytes(plain) == 0  # no loader processes
    loaders = read(tiny_config, "teacher.workers=4")
    assert experiment_checks.shared_bytes(loaders) == 2 * 4 * 2 * 3 * 1024 * 1024
    kept = read(tiny_config, "teacher.keep_checkpoints=12")
    assert experiment_checks.disk_bytes(kept) - experiment_checks.disk_bytes(plain) == 10 * 20 * 10**6
    labels = read(tiny_config, "data.unlabeled=train.json")
    assert experiment_checks.disk_bytes(labels) - experiment_checks.disk_bytes(plain) >= 6 * 15_000
