"""Loadable extensions are whole paths to files that nobody else can change; anything else is one line."""

from __future__ import annotations

import pytest

from mycomesh.mesh.node.config import EXTENSIONS_MAX, NodeConfig, load
from mycomesh.mesh.node.errors import ConfigError
from mycomesh.mesh.node.extensions import checked_extensions


@pytest.fixture
def library(tmp_path):
    file = tmp_path / "lib" / "vec0.so"
    file.parent.mkdir(mode=0o755)
    file.write_bytes(b"")
    file.chmod(0o644)
    return file


def refused(path):
    with pytest.raises(ConfigError) as error:
        checked_extensions([str(path)])
    text = str(error.value)
    assert len(text.splitlines()) == 1
    return text


def test_a_path_may_leave_out_its_suffix(library):
    assert checked_extensions([str(library), str(library.with_suffix(""))]) == (str(library), str(library))


def test_a_link_is_followed_before_the_check(library, tmp_path):
    link = tmp_path / "link.so"
    link.symlink_to(library)
    assert checked_extensions([str(link)]) == (str(library),)
    library.chmod(0o666)
    assert str(library) in refused(link)


@pytest.mark.parametrize("path", ["vec0", "lib/vec0.so", "", "~/vec0.so", "\0"])
def test_a_path_has_to_be_whole(path):
    assert "absolute path" in refused(path)


def test_missing_files_and_folders_are_named(library):
    assert "No such file" in refused(library.with_name("other.so"))
    assert "no plain file" in refused(library.parent)


def test_what_another_user_can_change_is_refused(library):
    library.chmod(0o646)
    assert f"chmod go-w {library}" in refused(library)
    library.chmod(0o644)
    library.parent.chmod(0o777)
    assert f"chmod go-w {library.parent}" in refused(library)


def test_the_setting_is_a_short_list(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('extensions = ["/usr/lib/vec0.so"]')
    assert load(file).extensions == ("/usr/lib/vec0.so",)
    file.write_text('extensions = "/usr/lib/vec0.so"')
    with pytest.raises(ConfigError, match="a list of strings"):
        load(file)
    NodeConfig(extensions=("/x",) * EXTENSIONS_MAX)
    with pytest.raises(ConfigError, match="more than"):
        NodeConfig(extensions=("/x",) * (EXTENSIONS_MAX + 1))
