import pytest

from stage.sources import sources
from stage.storage import read_table, write_table, write_text, written_whole


def test_a_failed_write_leaves_the_former_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.txt"
    write_text("before", path)
    with pytest.raises(RuntimeError, match="in the middle"), written_whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("in the middle")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_directory_is_replaced_whole(tmp_path):
    path = tmp_path / "model"
    for content in ("one", "two"):
        with written_whole(path) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [file.name for file in path.iterdir()] == ["two"]


def test_tables_keep_to_their_schema(tmp_path):
    path = tmp_path / "corpus.parquet"
    write_table("corpus", [{"text": "a\x00🙂"}], path)
    assert read_table("corpus", path) == [{"text": "a\x00🙂"}]
    with pytest.raises(ValueError, match="is no table of responses"):
        read_table("responses", path)
    with pytest.raises(ValueError, match=r"does not have: \['extra'\]"):
        write_table("corpus", [{"text": "a", "extra": 1}], path)
    with pytest.raises(TypeError):
        write_table("corpus", [{"text": 3}], path)
    assert read_table("corpus", path) == [{"text": "a\x00🙂"}]


def test_sources_are_the_script_and_what_it_imports_however_deep(tmp_path):
    root = tmp_path / "scripts"
    (root / "pack").mkdir(parents=True)
    files = {
        "main.py": "import os\nfrom pack.one import f\n",
        "pack/__init__.py": "",
        "pack/one.py": "def f():\n    from pack import two\n",
        "pack/two.py": "import pack.one\n",
        "pack/unused.py": "",
    }
    for name, text in files.items():
        (root / name).write_text(text)
    found = sources("main", root=str(root))
    assert found[0] == str(root / "main.py")
    assert sorted(found[1:]) == [str(root / "pack" / name) for name in ("__init__.py", "one.py", "two.py")]
