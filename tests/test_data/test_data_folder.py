"""Which files of a folder are its images."""

from PIL import Image

from s4m_pipeline.apps.predict.images import list_images
from s4m_pipeline.data.folder import image_files, unread_files


def test_image_files__links_to_files_and_folders__are_taken_once(tmp_path):
    folder, store = tmp_path / "folder", tmp_path / "store"
    for place in (folder / "own", store / "deep"):
        place.mkdir(parents=True)
    for path in (folder / "own/a.png", store / "b.JPE", store / "deep/c.jfif", tmp_path / "d.png"):
        path.touch()
    (folder / "a link.png").symlink_to("own/a.png")  # listed itself
    (folder / "more").symlink_to(store)
    (folder / "again").symlink_to(store)
    (folder / "d.png").symlink_to("../d.png")
    (store / "deep/loop").symlink_to(folder)
    files = list(image_files(folder))
    assert [name for name, _ in files] == ["again/b.JPE", "again/deep/c.jfif", "d.png", "own/a.png"]
    assert all(path.is_file() and not path.is_symlink() for _, path in files)


def test_list_images__of_links__has_the_names_of_the_links(tmp_path):
    (tmp_path / "folder").mkdir()
    Image.new("L", (9, 7)).save(tmp_path / "elsewhere.png")
    (tmp_path / "folder/x.png").symlink_to("../elsewhere.png")
    (image,) = list_images([tmp_path / "folder"])
    assert (image.file_name, image.width, image.height) == ("x.png", 9, 7)


def test_unread_files__are_counted_and_named(tmp_path):
    (tmp_path / "a.png").touch()
    assert unread_files(tmp_path) is None
    for name in ("b.HEIC", "c.gif"):
        (tmp_path / name).touch()
    assert "2 images are left out" in (unread_files(tmp_path) or "")
    assert "b.HEIC, c.gif" in (unread_files(tmp_path) or "")
