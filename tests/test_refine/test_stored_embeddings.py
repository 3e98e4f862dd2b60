"""What becomes of stored embeddings when SAM or the list of images changes."""

import shutil

from s4m_cache.generations import collect_garbage
from s4m_pipeline.config.sam_files import NANO_DIR


def test_refine__stored_embeddings_of_other_settings__are_left_until_nothing_needs_them(refine, tmp_path):
    cache = tmp_path / "run/cache"
    refine("run", "cache.embeddings=True")
    (first,) = cache.glob("embeddings-*")
    for file in NANO_DIR.glob("nano.*"):
        shutil.copy(file, tmp_path / f"other{file.suffix}")
    other = f"sam.model={tmp_path / 'other.safetensors'}"
    refine("run", "cache.embeddings=True", other, generation=2)
    (second,) = {*cache.glob("embeddings-*")} - {first}
    collect_garbage(cache)
    assert [*cache.glob("embeddings-*")] == [second]
